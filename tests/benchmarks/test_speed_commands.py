"""Every measurement's command prints its table and writes its record, at tiny sizes; and `all` runs them in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import all as speed_all
from benchmarks.speed import generate, memory, startup, tokenise, upscale
from benchmarks.speed.__main__ import MEASUREMENTS, main
from benchmarks.speed.all import RUNS
from benchmarks.speed.generate import KINDS
from benchmarks.speed.shapes import SHAPES, Shape
from scale_cli.methods import METHODS, paper_methods
from tests.benchmarks import test_speed_eval
from tests.benchmarks.conftest import RECORDS, Measured
from tests.benchmarks.test_speed import ROOT, TINY, cells, run_of


def test_train_step(measured: Measured) -> None:
    words = ("--methods", "scale-preserve,lora", "--repetitions", "1", "--warmup", "0")
    record = measured("train-step", *words, title="One training step, llama-small, 2 x 8 tokens, float32, cpu")
    assert [timing["method"] for timing in record["timings"]] == ["fft", "scale-preserve", "lora"]
    assert [(target["what"], target["limit"]) for target in record["targets"]] == [
        ("scale-preserve / fft over the cost model's", 1.15),
        ("scale-preserve / fft", 0.57),
        ("scale-preserve / lora", 1.0),
    ]
    preserve = record["timings"][1]
    assert [target["value"] for target in record["targets"][:2]] == [preserve["over_floor"], preserve["cpu_ratio"]]


def test_eval(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "llama-small", test_speed_eval.TINY)
    title = "Evaluation, llama-small, cpu, windows of 2 x 16 tokens"
    record = measured("eval", "--repetitions", "1", "--warmup", "0", title=title)
    assert [(line["work"], line["kind"]) for line in record["lines"]] == [
        (work, kind) for work in ("perplexity", "choice") for kind in KINDS
    ]
    targets, lines = record["targets"], record["lines"]
    assert [target["value"] for target in targets[: len(lines)]] == [line["over_floor"] for line in lines]
    assert [target["limit"] for target in targets[len(lines) :]] == [1.05, 1.1] * 2


def test_upscale(measured: Measured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []

    def measure(shape: Shape, work: Path, **options: Any) -> tuple[list[upscale.Run], list[upscale.Run], list[Any]]:
        calls.append((shape, work, options))
        recorded = json.loads((RECORDS / "speed-upscale-one-thread.json").read_text(encoding="utf-8"))
        return [run_of("copy", 1.0, 20, copy=1.0)], [], recorded["decompositions"][:1]

    monkeypatch.setattr(upscale, "measure", measure)
    title = "Upscaling llama-1b, bfloat16, medians of"
    words = ("upscale", "--repetitions", "2", "--work", str(tmp_path))
    record = measured(*words, title=title, like="upscale-one-thread")  # made since the solvers are compared
    assert calls == [(TINY, tmp_path / "llama-1b", {"repetitions": 2, "threads": 1})]
    assert (record["shape"]["layers"], record["repetitions"], record["threads"]) == (5, 2, 1)
    assert record["lines"][0]["total_seconds"] == 1.0
    assert record["runs"][0]["peak_bytes"] == {"write": 20}


def test_generate(measured: Measured) -> None:
    words = ("--repetitions", "1", "--warmup", "0", "--prompt-tokens", "3", "--new-tokens", "2")
    record = measured("generate", *words, title="Generating 2 tokens, llama-small")
    assert [line["kind"] for line in record["lines"]] == list(KINDS)
    weights = {line["kind"]: line["weights"] for line in record["lines"]}
    assert weights["base"] < weights["scale-preserve"] < weights["scale-adapt"] < weights["scale-route"]
    widened, targets = record["lines"][1:], record["targets"]
    values = [(target["value"], target["limit"]) for target in targets[: len(widened)]]
    assert values == [(line["over_floor"], 1.1) for line in widened]
    assert [target["limit"] for target in targets[len(widened) :]] == [1.05, 1.1]


def test_the_requested_number_of_tokens_is_generated() -> None:
    prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
    for kind in KINDS:
        generated = generate.generation(generate.prepare(kind, TINY, device="cpu"), prompt, 4)()
        assert generated.shape == (2, 7)


def test_memory(measured: Measured) -> None:
    words = ("--methods", "scale-preserve", "--batch-size", "1", "--seq-length", "4")
    record = measured("memory", *words, title="MB in training, llama-small, 1 x 4 tokens, float32, cpu")
    fft, preserve = record["lines"]
    assert (fft["method"], preserve["method"]) == ("fft", "scale-preserve")
    for line in (fft, preserve):
        assert line["measured"] is not None
        assert line["estimated"] > line["weights"]
    assert preserve["weights"] > fft["weights"]
    assert record["targets"] == []  # the target is for another shape


def test_memory_that_is_only_estimated(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "TARGET_SHAPE", "llama-small")
    record = measured("memory", "--estimate", title="tokens, bfloat16, estimated")
    assert [line["method"] for line in record["lines"]] == list(paper_methods())
    assert {line["measured"] for line in record["lines"]} == {None}
    estimated = {line["method"]: line["estimated"] for line in record["lines"]}
    (target,) = record["targets"]
    assert (target["value"], target["limit"]) == (estimated["scale-preserve"] / estimated["fft"], 1 / 3)


def test_memory_has_a_target_for_the_estimate_and_one_for_the_measurement() -> None:
    fft = {"method": "fft", "estimated": 300, "measured": 200}
    preserve = {"method": "scale-preserve", "estimated": 90, "measured": 80}
    estimated, measured = (target.record for target in memory.targets([fft, preserve], "llama-1b"))
    assert (estimated["value"], estimated["reached"]) == (0.3, True)
    assert (measured["value"], measured["reached"]) == (0.4, False)


def test_startup(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "PROGRAMS", {"python": "pass"})
    monkeypatch.setattr(startup, "WORKS", {"plan": ("plan", "BASE")})
    monkeypatch.setattr(startup, "LIBRARIES", {"plan": "sum(range(10**6))"})
    record = measured("startup", "--repetitions", "1", title="Starting")
    assert [line["program"] for line in record["lines"]] == ["python", "libraries of scale plan", "scale plan"]
    (target,) = record["targets"]
    assert target["value"] == record["lines"][2]["cpu_seconds"] / record["lines"][1]["cpu_seconds"] > 1
    assert all(0 < line["wall_seconds"] < 60 for line in record["lines"])


def test_a_program_that_fails_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        startup.start("import scale_clj", 1)


def test_gen_bios(measured: Measured) -> None:
    record = measured("gen-bios", "--people", "50", "--repetitions", "2", title="Generating biographies, 1 threads")
    assert [run["people"] for run in record["runs"]] == [50, 50]
    seconds, peak = record["targets"]
    assert seconds["limit"] == pytest.approx(20 * 50 / 200_000)
    assert seconds["value"] == record["summary"]["wall_seconds"]
    assert peak["value"] == record["summary"]["peak_bytes"] / 1e9


def test_tokenise(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "TRAINED_ON", 50)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    record = measured("tokenise", "--people", "30", "--repetitions", "2", title="Tokenising 30 people, 1 threads")
    library, cache, windows = record["lines"]
    assert [line["work"] for line in record["lines"]] == ["library", "cache", "windows"]
    assert cache["tokens"] == library["tokens"] + 5 * 30  # one end-of-text token per text
    assert windows["tokens"] == cache["tokens"] // tokenise.LENGTH * tokenise.LENGTH
    assert [target["value"] for target in record["targets"]] == [cache["wall_ratio"], windows["wall_ratio"]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The commands that `all` starts. Each writes a record with one target, which gen-bios misses, unless it fails."""
    started = SimpleNamespace(commands=[], failing="")

    def run(command: list[str], *, check: bool) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "benchmarks.speed"]
        started.commands.append(command[3:])
        name, *_, option, out = command[3:]
        assert option == "--out"
        if name == started.failing:
            return SimpleNamespace(returncode=1)
        value = 2.5 if name == "gen-bios" else 1.0
        target = {"what": f"time of {name}", "value": value, "limit": 1.15, "reached": value <= 1.15}
        Path(out).write_text(json.dumps({"targets": [target]}), encoding="utf-8")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(speed_all, "subprocess", SimpleNamespace(run=run))
    return started


@pytest.mark.parametrize("words", [[], ["--only", "generate-smollm2,gen-bios"]])
def test_all(words: list[str], started: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = words[1].split(",") if words else list(speed_all.RUNS)
    assert main(["all", str(tmp_path / "records"), *words]) == 0
    files = [str(tmp_path / "records" / f"speed-{name}.json") for name in names]
    assert started.commands == [[*speed_all.RUNS[name], "--out", file] for name, file in zip(names, files, strict=True)]
    assert {run[0] for run in speed_all.RUNS.values()} == {*MEASUREMENTS} - {"all"}
    printed = capsys.readouterr().out
    for row, name in zip(cells(printed), names, strict=True):
        value, verdict = ("2.500", "missed") if name == "gen-bios" else ("1.000", "reached")
        assert row == [name, f"time of {speed_all.RUNS[name][0]}", value, "1.150", verdict]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["walk"], f": walk: choose one of {', '.join(MEASUREMENTS)}"),
        (
            ["all", "TMP", "--only", "startup,walk"],
            f" all: --only startup,walk: 'walk' is not one of {', '.join(RUNS)}",
        ),
        (["all", "TMP", "--only", "startup,eval,gen-bios"], " all: eval failed; its output is above"),
        (
            ["all", "/dev/null/x"],
            " all: /dev/null/x cannot be written: Not a directory; mend that or choose another folder",
        ),
        (
            ["train-step", "--methods", "fft,ftt"],
            f" train-step: --methods fft,ftt: 'ftt' is not one of {', '.join(METHODS)}",
        ),
        (
            ["growth", "--people", "9999"],
            " growth: --people 9999: at least 10000, because growth needs two numbers of people",
        ),
        (
            ["upscale", "--work", "/dev/null/x", "--repetitions", "1"],
            " upscale: /dev/null/x/llama-1b/base cannot be written: Not a directory; mend that or choose another f",
        ),
        (
            ["upscale", "--repetitions", "0"],
            " upscale: Invalid value for '--repetitions': ",
        ),
    ],
)
def test_a_mistake_ends_with_one_line(
    words: list[str],
    line: str,
    started: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started.failing = "eval"
    monkeypatch.setattr(upscale, "in_own_process", lambda function, *values: function(*values))
    assert main([word.replace("TMP", str(tmp_path)) for word in words]) == 2
    completed = capsys.readouterr()
    assert completed.out == ""
    assert completed.err.splitlines()[-1].startswith(f"python -m benchmarks.speed{line}")
    assert len(completed.err.splitlines()) == 1 + ("upscale" in words and "--work" in words)
    assert "gen-bios" not in [name for name, *_ in started.commands]


def test_help_lists_the_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(f"\n  {name} ") == 2 for name in MEASUREMENTS)


@pytest.mark.slow
def test_all_in_real_processes(tmp_path: Path) -> None:
    words = ["all", str(tmp_path), "--only", "startup,gen-bios"]
    command = [sys.executable, "-m", "benchmarks.speed", *words]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "seconds for 200,000 people" in completed.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["speed-gen-bios.json", "speed-startup.json"]
