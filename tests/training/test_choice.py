"""The kept step and the early end: against runs without a choice, through interruptions, and in several processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record
from scale_cli.training import TrainRecipe
from scale_cli.training.choice import PEOPLE_METRICS, TEXT_METRICS, Choice, Rules, best_folders
from scale_cli.training.train import train
from scale_cli.training.trainer import PartTrainer
from tests.helpers import refusal
from tests.processes import together
from tests.runs import World, korean_texts, lines, progress_that, reload, same_tensors, tree

STEPS = 12
FAMILIES = {"fft": "neox", "lora": "llama", "scale-adapt": "llama"}
EARLIER = "en/bits_per_byte"
"""The value that is best before the last step in every run of these tests."""


class Crash(Exception):
    """An error that no code of ours catches."""


def crash() -> None:
    raise Crash


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Plain(NamedTuple):
    """A run without a choice. measured: values by step."""

    folder: Path
    measured: dict[int, dict[str, Any]]

    def best(self, name: str, steps: Any = None) -> int:
        """The step with the best value after 0, of these steps."""
        sign = 1 if name.startswith("en") else -1
        steps = list(self.measured)[1:] if steps is None else steps
        return min(steps, key=lambda step: sign * self.measured[step][name])


class Runs:
    """Runs of one recipe with different choices."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.texts = korean_texts(folder)
        self._plain: dict[str, Plain] = {}
        self._weights: dict[tuple[str, int], dict[str, torch.Tensor]] = {}

    def source(self, method: str) -> str:
        return self.world.source(method, FAMILIES[method])

    def recipe(self, method: str, **changes: Any) -> TrainRecipe:
        options: dict[str, Any] = {
            "lr": 3e-2,
            "steps": STEPS,
            "schedule": "constant",
            "eval_steps": 2,
            "logging_steps": 3,
            "eval_people": ("a=0:4",),
            "eval_text": (f"en={self.texts['english']}",),
            "eval_documents": 3,
            "seq_length": 48,
        }
        return self.world.recipe(method, **(options | changes))

    def plain(self, method: str) -> Plain:
        """The run without a choice. The value EARLIER is best before its last step."""
        if method not in self._plain:
            out = self.folder / method
            train(self.source(method), out, self.recipe(method))
            measured = {line["step"]: line for line in lines(out) if EARLIER in line}
            self._plain[method] = plain = Plain(out, measured)
            assert plain.best(EARLIER) < STEPS
        return self._plain[method]

    def weights(self, method: str, step: int) -> dict[str, torch.Tensor]:
        """The tensors of the model after a step."""
        if (method, step) not in self._weights:
            out = self.folder / f"{method}-{step}"
            with pytest.raises(KeyboardInterrupt):
                train(self.source(method), out, self.recipe(method), progress=progress_that(ctrl_c, at=step))
            self._weights[method, step] = reload(out / f"checkpoint-{step}").state_dict()
        return self._weights[method, step]


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(world, tmp_path_factory.mktemp("runs"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("method", FAMILIES)
def test_the_best_step_is_the_result(method: str, runs: Runs, tmp_path: Path) -> None:
    plain, out = runs.plain(method), tmp_path / "run"
    best = plain.best(EARLIER)
    result = train(runs.source(method), out, runs.recipe(method, keep_best="en"))
    assert same_tensors(reload(out).state_dict(), runs.weights(method, best))
    assert not same_tensors(reload(out).state_dict(), reload(plain.folder).state_dict())
    assert (out / "metrics.jsonl").read_bytes() == (plain.folder / "metrics.jsonl").read_bytes()
    assert names(out) == names(plain.folder)
    record = read_record(out / "record.json")
    assert (record["steps"], record["kept_step"], record["ended_by"]) == (STEPS, best, None)
    assert record["tokens"] == read_record(plain.folder / "record.json")["tokens"]
    values = {metric["name"]: metric["value"] for metric in record["metrics"]}
    assert values.pop("a/exact") >= 0  # of this step too, though it is measured at the end only
    at_best = {name: value for name, value in plain.measured[best].items() if name != "step"}
    assert {name: value for name, value in values.items() if not name.startswith("a/exact/")} == at_best
    assert result.metrics[EARLIER] == at_best[EARLIER]
    assert f"| kept step | {best} |" in (out / "README.md").read_text(encoding="utf-8")


def test_the_metrics_directions_are_those_of_the_measurements(runs: Runs) -> None:
    record = read_record(runs.plain("fft").folder / "record.json")
    directions = {metric["name"]: metric["higher_is_better"] for metric in record["metrics"]}
    assert {directions[f"en/{metric}"] for metric in TEXT_METRICS} == {False}
    assert {directions[f"a/{metric}"] for metric in PEOPLE_METRICS} == {True}


def test_the_best_step_is_within_the_limit(runs: Runs, tmp_path: Path) -> None:
    plain, out = runs.plain("fft"), tmp_path / "run"
    bound = 1.01 * plain.measured[0][EARLIER]
    within = [step for step in plain.measured if step and plain.measured[step][EARLIER] <= bound]
    best = plain.best("a/soft", within)
    assert plain.best("a/soft") not in within
    assert len(within) > 1
    recipe = runs.recipe("fft", keep_best="a/soft", limit=("en<=base*1.01",))
    train(runs.source("fft"), out, recipe)
    assert read_record(out / "record.json")["kept_step"] == best
    assert same_tensors(reload(out).state_dict(), runs.weights("fft", best))


@pytest.mark.parametrize("method", ["fft", "scale-adapt"])
def test_a_run_without_a_step_within_the_limit_has_no_result(method: str, runs: Runs, tmp_path: Path) -> None:
    plain, out = runs.plain(method), tmp_path / "run"
    nearest, base = plain.best(EARLIER), plain.measured[0][EARLIER]
    recipe = runs.recipe(method, keep_best="a/soft", limit=("en<=base-2", "a/soft>=0"))
    assert refusal(train, runs.source(method), out, recipe) == (
        f"--limit en<=base-2, a/soft>=0: no step is within the limits; the nearest is step {nearest} with {EARLIER} "
        f"{plain.measured[nearest][EARLIER]:.6g} (at most {base - 2:.6g}); its checkpoint is {out}/best-{nearest}; "
        "train anew with wider limits, a lower --lr or smaller --eval-steps"
    )
    assert names(out) == {"recipe.yaml", "metrics.jsonl", f"best-{nearest}"}
    assert same_tensors(reload(out / f"best-{nearest}").state_dict(), runs.weights(method, nearest))


def test_an_early_end_is_a_finished_run_of_the_planned_schedule(runs: Runs, tmp_path: Path) -> None:
    """The condition holds at step 0 too, which ends nothing."""
    plain, out = runs.plain("fft"), tmp_path / "run"
    values = {step: line[EARLIER] for step, line in plain.measured.items()}
    assert values[2] > values[0] >= values[6]
    recipe = runs.recipe("fft", stop_when=("en<=base", "a/soft>=0"), save_steps=2)
    result = train(runs.source("fft"), out, recipe)
    assert (result.steps, result.kept_step, result.ended_by) == (6, 6, "en<=base, a/soft>=0")
    record = read_record(out / "record.json")
    assert (record["steps"], record["ended_by"], record["recipe"]["steps"]) == (6, result.ended_by, STEPS)
    assert same_tensors(reload(out).state_dict(), runs.weights("fft", 6))
    assert names(out) == names(plain.folder)
    written = lines(out)
    assert written[:-2] == [line for line in lines(plain.folder) if line["step"] < 6]
    assert plain.measured[6].items() < written[-2].items()
    assert {"a/exact", "en/perplexity"} <= written[-2].keys()  # what the last step of a run has
    assert written[-1] == next(line for line in lines(plain.folder) if line["step"] == 6 and "loss" in line)
    assert "| steps done | 6 |" in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("objective", ["qa", "lm"])
def test_an_early_end_counts_the_tokens_of_its_steps(objective: str, runs: Runs, tmp_path: Path) -> None:
    options: dict[str, Any] = {"gradient_accumulation_steps": 2}
    if objective == "lm":
        data = (f"{runs.texts['train']}:0.7", f"{runs.texts['korean']}:0.3")
        options |= {"objective": "lm", "people": None, "packing": "documents", "data": data, "eval_people": ()}
    counts = []
    for name, changes in (("ended", {"stop_when": ("en<=99",)}), ("short", {"steps": 2}), ("long", {"steps": 4})):
        train(runs.source("fft"), tmp_path / name, runs.recipe("fft", **(options | changes)))
        record = read_record(tmp_path / name / "record.json")
        counts.append((record["steps"], record["tokens"], record["predicted_tokens"]))
    assert counts[0] == counts[1] != counts[2]


def test_the_kept_step_of_a_run_that_ends_early(runs: Runs, tmp_path: Path) -> None:
    plain, out = runs.plain("fft"), tmp_path / "run"
    soft = plain.measured[10]["a/soft"]
    result = train(
        runs.source("fft"), out, runs.recipe("fft", keep_best="en", stop_when=(f"a/soft>={soft}",), save_steps=3)
    )
    assert (result.steps, result.kept_step) == (10, 6)
    assert same_tensors(reload(out).state_dict(), runs.weights("fft", 6))


# Interruptions


def outcome(folder: Path) -> dict[str, Any]:
    """The files that a run must write, interrupted or not."""
    record = read_record(folder / "record.json")
    files = {name: content for name, content in tree(folder).items() if name.endswith((".safetensors", ".jsonl"))}
    same = ("metrics", "steps", "kept_step", "ended_by", "tokens", "predicted_tokens")
    return files | {name: record[name] for name in same} | {"names": names(folder)}


@pytest.fixture(scope="module")
def never_killed(runs: Runs) -> Callable[..., dict[str, Any]]:
    made: dict[TrainRecipe, dict[str, Any]] = {}

    def outcome_of(method: str, **changes: Any) -> dict[str, Any]:
        recipe = runs.recipe(method, **changes)
        if recipe not in made:
            folder = runs.folder / f"never-killed-{len(made)}"
            train(runs.source(method), folder, recipe)
            made[recipe] = outcome(folder)
        return made[recipe]

    return outcome_of


@pytest.mark.parametrize(("method", "after"), [("fft", -1), *((method, 1) for method in FAMILIES)])
def test_ctrl_c_before_and_after_the_best_step(
    method: str, after: int, runs: Runs, tmp_path: Path, never_killed: Callable[..., dict[str, Any]]
) -> None:
    out, recipe = tmp_path / "run", runs.recipe(method, keep_best="en")
    best = runs.plain(method).best(EARLIER)
    with pytest.raises(KeyboardInterrupt):
        train(runs.source(method), out, recipe, progress=progress_that(ctrl_c, at=best + after))
    assert (f"best-{best}" in names(out)) == (after > 0)
    train(runs.source(method), out, recipe, resume=True)
    assert outcome(out) == never_killed(method, keep_best="en")


def test_a_crash_after_a_best_step_that_no_checkpoint_has(
    runs: Runs, tmp_path: Path, never_killed: Callable[..., dict[str, Any]]
) -> None:
    """The resumed run begins before the best step so far: it has the best one up to there, and forgets the later."""
    out, recipe = tmp_path / "run", runs.recipe("fft", keep_best="en", save_steps=4)
    values = {step: line[EARLIER] for step, line in runs.plain("fft").measured.items()}
    assert values[2] > values[4] > values[6]
    with pytest.raises(Crash):
        train(runs.source("fft"), out, recipe, progress=progress_that(crash, at=7))
    assert names(out) == {"recipe.yaml", "metrics.jsonl", "checkpoint-4", "best-4", "best-6"}
    assert same_tensors(reload(out / "best-4").state_dict(), runs.weights("fft", 4))
    (out / "best-6" / "trained.safetensors").write_bytes(b"of another run")
    shutil.copytree(out / "best-4", out / ".best-8.host.123.partial")
    shutil.copytree(out, tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost" / "best-4")
    train(runs.source("fft"), out, recipe, resume=True)
    assert outcome(out) == never_killed("fft", keep_best="en")
    with pytest.raises(RequestError, match=r"^--resume: .*best-4, the best step so far, is missing; put it back$"):
        train(runs.source("fft"), tmp_path / "lost", recipe, resume=True)


def test_a_kill_before_the_record(
    runs: Runs, tmp_path: Path, never_killed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step, with a checkpoint of it, and after an early end, at which no checkpoint is written."""
    for name, changes, checkpoint in (
        ("last", {"keep_best": "en"}, STEPS),
        ("early", {"keep_best": "a/soft", "stop_when": ("en<=base",)}, 4),
    ):
        out, recipe = tmp_path / name, runs.recipe("fft", save_steps=2, **changes)
        with monkeypatch.context() as patch:
            patch.setattr("scale_cli.training.train._write_record", lambda *_: crash())
            with pytest.raises(Crash):
                train(runs.source("fft"), out, recipe)
        assert max(int(path.name.partition("-")[2]) for path in out.glob("checkpoint-*")) == checkpoint
        train(runs.source("fft"), out, recipe, resume=True)
        assert outcome(out) == never_killed("fft", **changes)


def test_ctrl_c_at_the_step_of_an_early_end_comes_when_the_run_is_finished(
    runs: Runs, tmp_path: Path, never_killed: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, recipe = tmp_path / "run", runs.recipe("fft", stop_when=("en<=base",))
    add = Choice.add

    def add_and_stop(choice: Choice, step: int, *values: Any, **options: Any) -> bool:
        if step == 6:
            ctrl_c()
        return add(choice, step, *values, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Choice, "add", add_and_stop)
        patch.setattr(PartTrainer, "_save_checkpoint", lambda *_: crash())  # a run resumed there would go on
        with pytest.raises(KeyboardInterrupt):
            train(runs.source("fft"), out, recipe)
    assert outcome(out) == never_killed("fft", stop_when=("en<=base",))


def test_several_processes_keep_the_same_step(runs: Runs, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    options = {"method": "fft", "data": str(runs.world.data), "objective": "qa", "people": "0:4", "batch_size": 2}
    options |= {"lr": 3e-2, "steps": STEPS, "schedule": "constant", "eval_steps": 2, "weight_decay": 0.1}
    options |= {"eval_text": f"en={runs.texts['english']}", "eval_documents": 3, "eval_people": "a=0:4"}
    options |= {"seq_length": 48, "keep_best": "en", "stop_when": "a/soft>=0.05"}
    recipe.write_text(json.dumps(options), encoding="utf-8")
    out = tmp_path / "run"
    printed = together(2, tmp_path, ["train", runs.source("fft"), out, "--recipe", recipe, "--json"])
    measured = {line["step"]: line for line in lines(out) if EARLIER in line}
    record = read_record(out / "record.json")
    assert json.loads(printed)["kept_step"] == record["kept_step"] == Plain(out, measured).best(EARLIER)
    assert record["kept_step"] < record["steps"] == max(measured) < STEPS
    assert record["ended_by"] == "a/soft>=0.05"
    values = {metric["name"]: metric["value"] for metric in record["metrics"]}
    assert values[EARLIER] == pytest.approx(measured[record["kept_step"]][EARLIER], rel=1e-6)
    assert names(out) == names(runs.plain("fft").folder)


# The rules alone


def rules(keep_best: str | None = None, limit: tuple[str, ...] = (), stop_when: tuple[str, ...] = ()) -> Rules:
    return Rules.parse(keep_best, limit, stop_when, texts=["en", "ko"], people=["a"], measured_between=True)


def kept(folder: Path, chosen: Rules, *values: dict[str, float]) -> int:
    """The kept step of a run with these values, by step."""
    choice = Choice(chosen, folder, save=Path.mkdir)
    for step, measured in enumerate(values):
        choice.add(step, measured, last=step == len(values) - 1, writes=True)
    step, found = choice.kept(len(values) - 1)
    assert found is None or found.is_dir()
    assert best_folders(folder) == ([] if found is None else [found])
    return step


@pytest.mark.parametrize(
    ("chosen", "values", "step"),
    [
        (rules("ko"), [1, 3, 2, 2, 4], 2),  # the earliest of equals, and never step 0
        (rules("ko"), [9, math.nan, math.inf, 5, 6], 3),
        (rules("a"), [0, 0.5, 0.9, 0.7], 2),  # higher is better
        (rules(), [0, 0.5, 0.9, 0.7], 3),  # without a choice the last
    ],
)
def test_which_step_is_kept(chosen: Rules, values: list[float], step: int, tmp_path: Path) -> None:
    name = chosen.best or "a/hard"
    assert kept(tmp_path, chosen, *({name: value} for value in values)) == step


def test_the_nearest_step_by_relative_distances(tmp_path: Path) -> None:
    """A text's limit of 10 is exceeded by 2 (20%), or an accuracy's limit of 0.5 missed by 0.2 (40%)."""
    limited = rules("ko", ("en/perplexity<=base", "a>=0.5"))
    steps = [(10.0, 0.5), (10.0, 0.3), (12.0, 0.5), (12.0, 0.3)]
    with pytest.raises(
        RequestError, match=r"nearest is step 2 with en/perplexity 12 \(at most 10\); its checkpoint is"
    ):
        kept(tmp_path, limited, *({"ko/bits_per_byte": 1.0, "en/perplexity": en, "a/hard": a} for en, a in steps))
    assert [path.name for path in tmp_path.iterdir()] == ["best-2"]
    shutil.rmtree(tmp_path / "best-2")
    with pytest.raises(RequestError, match=r"^--keep-best ko/bits_per_byte: no measured step has finite values; train"):
        kept(tmp_path, rules("ko"), {"ko/bits_per_byte": 1.0}, {"ko/bits_per_byte": math.nan})


def test_only_the_best_step_and_that_of_the_checkpoint_are_stored(tmp_path: Path) -> None:
    choice = Choice(rules("a"), tmp_path, save=Path.mkdir)
    stored = []
    for step, value in enumerate([0.0, 0.1, 0.2, 0.3, 0.2, 0.4, 0.5]):
        choice.add(step, {"a/hard": value}, last=False, writes=True)
        if step in (2, 4):
            choice.checkpointed()
        stored.append({path.name for path in tmp_path.iterdir()})
    assert stored == [
        set(),
        {"best-1"},
        {"best-2"},
        {"best-2", "best-3"},
        {"best-2", "best-3"},
        {"best-3", "best-5"},
        {"best-3", "best-6"},
    ]


def test_the_state_at_a_step_is_that_of_the_lines_up_to_it(tmp_path: Path) -> None:
    """Several processes read the file, whose later lines only the first one removes."""
    written: list[dict[str, float]] = [{"step": step, "a/hard": step / 10} for step in range(5)]
    written[2:2] = [{"step": 1, "loss": 1.0}]
    text = "".join(json.dumps(line) + "\n" for line in written) + '{"step": 2, "a/h'
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    for step in (2, 4):
        (tmp_path / f"best-{step}").mkdir()
    choice = Choice(rules("a"), tmp_path, save=lambda folder: None)
    choice.resume(2, tmp_path / "metrics.jsonl", writes=False)
    assert choice.kept(3) == (2, tmp_path / "best-2")
    assert names(tmp_path) == {"metrics.jsonl", "best-2", "best-4"}
    choice.resume(2, tmp_path / "metrics.jsonl", writes=True)
    assert names(tmp_path) == {"metrics.jsonl", "best-2"}


BAD = [
    ({"keep_best": "x"}, "--keep-best x: no --eval-text or --eval-people is named x; choose from en, a"),
    (
        {"keep_best": "en/hard"},
        "--keep-best en/hard: en has no metric hard at every measured step; choose from en/bits_per_byte, "
        "en/bits_per_character, en/perplexity",
    ),
    (
        {"keep_best": "a/exact"},
        "--keep-best a/exact: a has no metric exact at every measured step; choose from a/hard, a/soft",
    ),
    (
        {"keep_best": "en", "eval_text": (), "eval_people": ()},
        "--keep-best en: nothing is measured during training; give --eval-text or --eval-people",
    ),
    (
        {"keep_best": "en", "eval_steps": None},
        "--keep-best: it chooses among measured steps; give --eval-steps, the steps between them, or "
        "--eval-per-doubling",
    ),
    (
        {"stop_when": ("en<=1",), "eval_steps": None},
        "--stop-when: it chooses among measured steps; give --eval-steps, the steps between them, or "
        "--eval-per-doubling",
    ),
    ({"limit": ("en<=1",)}, "--limit en<=1: it limits --keep-best; give both"),
    (
        {"keep_best": "a", "limit": ("en<=base+x",)},
        "--limit en<=base+x: write NAME<=BOUND or NAME>=BOUND in quotes; BOUND is a number, base, base+X, base-X or "
        "base*X; base is the value at step 0",
    ),
    ({"stop_when": ("b>=1",)}, "--stop-when b>=1: no --eval-text or --eval-people is named b; choose from en, a"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_what_is_refused(changes: dict[str, Any], message: str, runs: Runs) -> None:
    assert refusal(runs.recipe, "fft", **changes) == message
