"""`scale train` says what it trained, stops so that it can go on, and refuses what it cannot do in one line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import scale_cli.cli.train as command
from scale_cli.core.recipe import load_recipe
from scale_cli.core.records import read_record
from scale_cli.data.biographies import read_biographies
from scale_cli.data.tokens import tokenise
from scale_cli.training import TrainRecipe
from tests.runs import World, korean_texts, lines, tree

RunCli = Callable[..., Any]


def words(world: World, method: str, out: Path, *more: object) -> list[object]:
    """A command that trains a few steps on questions; a later option stands over an earlier one."""
    options = {"method": method, "data": world.data, "objective": "qa", "people": "0:4", "steps": 3, "batch-size": 4}
    options |= {"lr": 1e-2, "logging-steps": 1, "lora-r": 4}
    flags = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["train", world.source(method), out, *flags, *more]


def test_result_for_people(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    measured = ("--eval-people", "a=0:2,b=2:3", "--eval-steps", 2)
    ended = run_cli(*words(world, "scale-route", tmp_path / "run", *measured))
    assert ended.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    table = {row[0]: row[1] for row in rows}
    record = read_record(tmp_path / "run" / "record.json")
    trained, total = record["trained_parameters"], record["total_parameters"]
    assert table["method"] == "scale-route"
    assert table["trained parameters"] == f"{trained:,} of {total:,} ({trained / total:.1%})"
    assert table["tokens"].startswith(f"{record['tokens']:,} in ")
    values = {metric["name"]: metric["value"] for metric in record["metrics"]}
    assert table["learning rate"] == "0.01, cosine, no warm-up"
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert table["loss"] == f"{losses[0]:.3f} at first, {losses[-1]:.3f} at last"
    assert table["epochs"] == f"{3 * 4 / (4 * 6):.2f} of {world.data}"  # 4 people have 6 questions each
    before = lines(tmp_path / "run")[0]
    shown = {}
    for name in (f"{name}/{kind}" for name in "ab" for kind in ("hard", "soft", "routed")):
        shown[name] = [f"{before[name]:.3f}", f"{values[name]:.3f}", f"{values[name] - before[name]:+.3f}"]
    shown |= {f"{name}/exact": ["", f"{values[f'{name}/exact']:.3f}", ""] for name in "ab"}
    assert {row[0]: row[1:] for row in rows if "/" in row[0]} == shown
    first, *_, last, warning = ended.stderr.splitlines()
    assert first == f"scale-route, step 0: a/hard {before['a/hard']:.3f}, b/hard {before['b/hard']:.3f}"
    assert last.startswith("scale-route: 3 of 3 (100%), ")
    assert warning.endswith("guess among 512 tokens: train with more --steps, or with a lower --lr (given 0.01)")


def test_the_changes_of_texts_and_the_epochs_of_sources(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    texts = korean_texts(tmp_path)
    data = f"{world.data}:3,{texts['train']}:1"
    given = ("--steps", 3, "--batch-size", 4, "--seq-length", 32, "--eval-text", f"old={texts['english']}")
    ended = run_cli("train", world.source("fft"), tmp_path / "run", "--data", data, "--lr", 1e-3, *given)
    assert ended.code == 0, ended.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    record = read_record(tmp_path / "run" / "record.json")
    name = "old/bits_per_byte"
    before, after = (line for line in lines(tmp_path / "run") if name in line)
    changed = f"{after[name] / before[name] - 1:+.1%}"
    assert [name, f"{before[name]:.3f}", f"{after[name]:.3f}", changed] in rows
    assert f"fft, step 3: {name} {after[name]:.3f} ({changed})" in ended.stderr.splitlines()
    korean = [json.loads(line)["text"] for line in texts["train"].read_text(encoding="utf-8").splitlines()]
    tokens = [tokenise(each, world.tokenizer) for each in (read_biographies(world.data), korean)]
    sizes = [sum(len(ids) + 1 for ids in each) // 32 for each in tokens]
    epochs = {source: count / size for source, count, size in zip(data.split(","), (9, 3), sizes, strict=True)}
    assert record["epochs"] == epochs
    shown = [f"{number:.2f} of {source}" for source, number in epochs.items()]
    assert [row[1] for row in rows if row[0] == "epochs"] == shown


def test_the_kept_step_and_the_early_end_for_people(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    measured = ("--eval-people", "a=0:2,b=2:3", "--eval-steps", 1, "--steps", 5)
    asked = words(world, "fft", tmp_path / "run", *measured, "--keep-best", "b", "--limit", "a<=1,a/soft>=base*0")
    ended = run_cli(*asked, "--stop-when", "a/soft>=base-1,b>=0")
    assert ended.code == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    table = {row[0]: row[1] for row in rows}
    assert table["kept step"] == "1 of 1, the best in b"
    assert table["ended early"] == "after 1 of 5 steps by a/soft>=base-1, b>=0"
    assert (lines(tmp_path / "run")[-1]["step"], "b/exact" in table) == (1, True)
    ended = run_cli(*words(world, "fft", tmp_path / "no", *measured, "--keep-best", "b", "--limit", "a>=2"))
    assert (ended.code, ended.stdout) == (2, "")
    assert "scale: --limit a>=2: no step is within the limits; the nearest is step 1 with a/hard " in ended.stderr
    assert not (tmp_path / "no" / "record.json").exists()


def test_reading_texts_is_told(run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scale_cli.cli.output.PLAIN_INTERVAL_SECONDS", 0.0)
    asked = words(world, "fft", tmp_path / "run", "--objective", "lm", "--seq-length", 32)
    ended = run_cli(*asked, "--tokens-cache", tmp_path / "tokens")
    assert ended.code == 0
    assert ended.stderr.splitlines()[0].startswith("tokens read from --data: ")
    again = run_cli(*words(world, "fft", tmp_path / "two", "--objective", "lm"), "--tokens-cache", tmp_path / "tokens")
    assert "tokens read" not in again.stderr


def test_result_for_programs(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    """And nothing on the screen but our own words: no bars, remarks or warnings of the libraries."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ended = run_cli(*words(world, "lora", tmp_path / "run", "--json"))
    assert ended.code == 0
    assert [str(warning.message) for warning in caught] == []
    progress, warning = ended.stderr.splitlines()
    assert (progress.partition(": ")[0], warning.partition(": ")[0]) == ("lora", "warning")
    record = read_record(tmp_path / "run" / "record.json")
    names = (
        "steps",
        "kept_step",
        "ended_by",
        "tokens",
        "predicted_tokens",
        "extra_tokens",
        "seconds",
        "trained_parameters",
        "total_parameters",
    )
    fields = {name: record[name] for name in (*names, "epochs")}
    losses = [line["loss"] for line in lines(tmp_path / "run")]
    followed = {"first_loss": losses[0], "last_loss": losses[-1], "before": {}}
    followed["warning"] = warning.removeprefix("warning: ")
    assert json.loads(ended.stdout) == fields | followed | {"out": str(tmp_path / "run"), "metrics": {}}


def test_flags_stand_over_the_recipe_file(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"method: lora\ndata: {world.data}\nlora_r: 2\nsteps: 5\npeople: 0:4\n", encoding="utf-8")
    out = tmp_path / "run"
    run_cli("train", world.source("lora"), out, "--recipe", file, "--steps", 2, "--objective", "qa", "--lr", "0.5")
    values = {"method": "lora", "lora_r": 2, "lora_alpha": 2, "steps": 2, "objective": "qa", "people": "0:4", "lr": 0.5}
    values |= {"data": str(world.data), "precision": "float32", "warmup": 0.0}
    expected = load_recipe(TrainRecipe, None, values)
    assert load_recipe(TrainRecipe, out / "recipe.yaml", {}) == expected
    assert run_cli("train", out, tmp_path / "again", "--recipe", out / "recipe.yaml", "--steps", 1).code == 0


def test_tokens_and_epochs_stand_over_the_steps_of_the_recipe_file(
    run_cli: RunCli, world: World, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text("steps: 9\n", encoding="utf-8")
    words = ["train", world.source("fft"), tmp_path / "run", "--data", world.data, "--seq-length", 32]
    words += ["--recipe", tmp_path / "recipe.yaml", "--batch-size", 2, "--method", "fft", "--tokens", "3.2k"]
    ended = run_cli(*words)
    assert ended.code == 0
    assert ended.stderr.splitlines()[0] == "--tokens 3.2k: 50 steps of 64 tokens, 3,200 tokens"
    assert "fft: 50 of 50 (100%)" in ended.stderr
    assert "cosine, a warm-up of 6% of the steps" in ended.stdout
    saved = load_recipe(TrainRecipe, tmp_path / "run" / "recipe.yaml", {})
    assert (saved.steps, saved.warmup, saved.amount) == (50, 0.06, None)


@pytest.mark.parametrize(
    ("kind", "method", "name"),
    [("width", "scale-preserve", "width-upscaled"), ("depth", "llama-pro", "depth-upscaled"), ("plain", "fft", "not")],
)
def test_the_default_method_is_that_of_the_kind_of_checkpoint(
    kind: str, method: str, name: str, run_cli: RunCli, world: World, tmp_path: Path
) -> None:
    source, out = world.checkpoint("llama", kind), tmp_path / "run"
    ended = run_cli("train", source, out, "--data", world.data, "--steps", 1, "--batch-size", 1, "--seq-length", 32)
    assert ended.code == 0
    assert ended.stderr.startswith(f"--method {method}, as {source} is {name}")
    assert load_recipe(TrainRecipe, out / "recipe.yaml", {}).method == method


def test_doubtful_texts_are_a_warning_each(
    run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = korean_texts(tmp_path)
    monkeypatch.setattr("scale_cli.training.guards.cpu_bfloat16", lambda: None)
    words = ["train", world.source("fft"), tmp_path / "run", "--data", texts["train"], "--method", "fft", "--epochs", 6]
    words += ["--seq-length", 24, "--precision", "bfloat16", "--eval-documents", 3]
    ended = run_cli(*words, "--eval-text", f"old={texts['english']},new={texts['train']}")
    assert ended.code == 0
    warnings = [line.removeprefix("warning: ") for line in ended.stderr.splitlines() if line.startswith("warning: ")]
    if not torch.accelerator.is_available():
        assert warnings.pop(0).startswith("--precision bfloat16: this processor has no bfloat16 instructions")
    epochs = read_record(tmp_path / "run" / "record.json")["epochs"][str(texts["train"])]
    assert 6 <= epochs < 7
    assert warnings[0].startswith(f"--data {texts['train']} is read {epochs:.1f} times; ")
    assert warnings[1].startswith("3 of 3 documents of --eval-text new are also in --data: ")
    assert not any(" old " in line for line in warnings)


def test_the_home_folder_stands_for_a_tilde_in_flags_and_in_the_recipe(
    run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(world.checkpoint("llama"))
    (tmp_path / "bios").symlink_to(world.data)
    (tmp_path / "text.txt").write_text("Ann Lee was born in Lima. " * 9, encoding="utf-8")
    recipe = "eval_people: a=0:1\neval_text: old=~/text.txt\ntokens_cache: ~/tokens\nseq_length: 32\nsteps: 1\n"
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    ended = run_cli("train", "~/model", "~/run", "--data=~/bios", "--recipe=~/recipe.yaml", "--people", "0:9")
    assert ended.code == 0, ended.stderr
    assert "~" not in (tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8")
    assert read_record(tmp_path / "run" / "record.json")["base"]["source"] == str(tmp_path / "model")
    assert (tmp_path / "tokens").is_dir()
    ended = run_cli("eval", "mine=~/run", "--perplexity=old=~/text.txt", "--out", "~/results")
    assert ended.code == 0, ended.stderr
    assert (tmp_path / "results" / "mine").is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_resume(
    number: signal.Signals, run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int | None, int]] = []

    @contextlib.contextmanager
    def pressing(label: str, total: int, *, done: int) -> Iterator[Callable[..., None]]:
        begun.append((total, done))

        def advance(*, done: int, total: int, note: str) -> None:
            if done == 2:
                os.kill(os.getpid(), number)

        yield advance

    asked = words(world, "freeze", tmp_path / "run", "--freeze-layers", 1)
    with monkeypatch.context() as patch:
        patch.setattr(command, "progress", pressing)
        ended = run_cli(*asked)
        again = shlex.join(map(str, ("scale", *asked, "--resume")))
        line = f"{tmp_path}/run/checkpoint-2 was written; continue with: {again}"
        assert (ended.code, ended.stdout, ended.stderr) == (130, "", f"{line}\nscale: interrupted\n")
        assert run_cli(*shlex.split(again)[1:]).code == 0
    assert begun == [(3, 0), (3, 2)]
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]
    ended = run_cli(*asked, "--resume")
    assert ended.code == 2
    assert "is finished" in ended.stderr


BAD = {
    "unknown method": (
        ["train", "{base}", "{out}", "--data", "{data}", "--method", "ftt"],
        "'ftt' is not one of 'fft', ",
    ),
    "no data": (["train", "{base}", "{out}"], "--data is missing: name a gen-bios folder or text files"),
    "no range": (["train", "{base}", "{out}", "--data", "{data}", "--people", "9:3"], "people '9:3': write A:B"),
    "two amounts": (
        ["train", "{base}", "{out}", "--data", "{data}", "--tokens", "9", "--epochs", "2"],
        "--tokens 9 and --epochs 2.0 each set the amount of training; give one of them",
    ),
    "epochs of a stream": (
        ["train", "{base}", "{out}", "--data", "org/name", "--epochs", "2", "--method", "fft"],
        "--epochs 2: the length of org/name, a dataset of the hub, is not known; give --tokens or --steps",
    ),
    "too many layers": (
        ["train", "{base}", "{out}", "--data", "{data}", "--method", "freeze", "--freeze-layers", "2"],
        "--freeze-layers 2: the model has 2 layers and at least one must train; choose 0 to 1",
    ),
    "unknown key": (
        ["train", "{base}", "{out}", "--recipe", "{full}/recipe.yaml"],
        "unknown key 'stepps'; did you mean 'steps'?",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_ends_with_one_line_and_writes_nothing(
    case: str, run_cli: RunCli, world: World, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "recipe.yaml").write_text(f"data: {world.data}\nstepps: 5\n", encoding="utf-8")
    before = tree(tmp_path)
    names = {"world": world.folder, "data": world.data, "base": world.checkpoint("llama")}
    asked, message = BAD[case]
    ended = run_cli(*(word.format(out=tmp_path / "out", full=tmp_path / "full", **names) for word in asked))
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("scale: ")
    assert message in ended.stderr
    assert tree(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_ends_with_one_line(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    ended = run_cli(*words(world, "fft", tmp_path / "run", "--lr", "1e30", "--steps", 9))
    assert (ended.code, ended.stdout) == (2, "")
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("scale: "))
    assert "is NaN or infinite at step " in line
    assert "no good checkpoint was written; train anew with a lower --lr (given 1e+30)" in line
    assert not (tmp_path / "run" / "record.json").exists()


def test_a_finite_loss_that_rises_is_a_warning(run_cli: RunCli, world: World, tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("Ann Lee was born in Lima. " * 9, encoding="utf-8")
    measured = ("--eval-text", f"old={tmp_path}/old.txt")
    ended = run_cli(*words(world, "scale-preserve", tmp_path / "run", "--lr", "100", *measured))
    assert ended.code == 0
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("warning: "))
    first, *_, last = (line["loss"] for line in lines(tmp_path / "run") if "loss" in line)
    assert last > first
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    before = next(line["old/perplexity"] for line in lines(tmp_path / "run") if "old/perplexity" in line)
    assert f"| old/perplexity | {before:.4g} | not finite | " in card
    guess = math.log(len(world.tokenizer))
    guess_of = f"{guess:.3f}, that of a uniform guess among {len(world.tokenizer)} tokens"
    assert line == (
        f"warning: the last loss, {last:,.3f}, is above the first, {first:.3f}, and above {guess_of}: the training has "
        "probably diverged; train anew with a lower --lr (given 100) or a longer --warmup"
    )
    assert f"│ warning            │ the last loss, {last:,.3f}, is above the first, {first:.3f}, " in ended.stdout
