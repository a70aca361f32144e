"""Every measurement's command line prints its table and writes its record, in tiny; and `all` runs them one by one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import all as speed_all
from benchmarks.speed import gen_bios, generate, memory, startup, tokenise
from benchmarks.speed.__main__ import MEASUREMENTS, main
from benchmarks.speed.generate import KINDS
from benchmarks.speed.shapes import SHAPES
from scale_cli.methods import METHODS
from tests.benchmarks.test_speed import ROOT, TINY

Measured = Callable[..., dict[str, Any]]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Measured:
    """The record of a measurement of the tiny shape, in this process, with one thread."""
    monkeypatch.setitem(SHAPES, "llama-small", TINY)
    for module in (gen_bios, memory):
        monkeypatch.setattr(module, "in_own_process", lambda function, *given, **named: function(*given, **named))

    def measure(name: str, *words: str, title: str) -> dict[str, Any]:
        words = (*words, "--threads", "1", "--out", str(tmp_path / "record.json"))
        assert main([name, *words]) == 0
        printed = capsys.readouterr()
        assert title in printed.out
        assert "…" not in printed.out
        assert printed.err == ""
        record: dict[str, Any] = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
        assert record["command"] == " ".join(["python -m benchmarks.speed", name, *words])
        return record

    return measure


def test_generate(measured: Measured) -> None:
    words = ("--repetitions", "1", "--warmup", "0", "--prompt-tokens", "3", "--new-tokens", "2")
    record = measured("generate", *words, title="Generating 2 tokens, llama-small")
    assert [line["kind"] for line in record["lines"]] == list(KINDS)
    weights = {line["kind"]: line["weights"] for line in record["lines"]}
    assert weights["base"] < weights["scale-preserve"] < weights["scale-adapt"] < weights["scale-route"]
    assert [(target["value"], target["limit"]) for target in record["targets"]] == [
        (line["over_floor"], 1.1) for line in record["lines"][1:]
    ]


def test_as_many_tokens_are_generated_as_were_asked_for() -> None:
    prompt = torch.tensor([[5, 6, 7], [8, 9, 10]])
    for kind in KINDS:
        made = generate.generation(generate.prepare(kind, TINY, device="cpu"), prompt, 4)()
        assert made.shape == (2, 7)


def test_memory(measured: Measured) -> None:
    words = ("--methods", "scale-preserve", "--batch-size", "1", "--seq-length", "4")
    record = measured("memory", *words, title="MB in training, llama-small, 1 x 4 tokens, float32, cpu")
    fft, preserve = record["lines"]
    assert (fft["method"], preserve["method"]) == ("fft", "scale-preserve")
    for line in (fft, preserve):
        assert line["measured"] >= 0
        assert line["estimated"] > line["weights"]
    assert preserve["weights"] > fft["weights"]
    assert record["targets"] == []  # they are for another shape


def test_memory_that_is_only_estimated(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "TARGET_SHAPE", "llama-small")
    record = measured("memory", "--estimate", title="tokens, bfloat16, estimated")
    assert [line["method"] for line in record["lines"]] == list(METHODS)
    assert {line["measured"] for line in record["lines"]} == {None}
    of = {line["method"]: line["estimated"] for line in record["lines"]}
    (target,) = record["targets"]
    assert (target["value"], target["limit"]) == (of["scale-preserve"] / of["fft"], 1 / 3)


def test_memory_is_judged_by_what_is_measured_too() -> None:
    lines = [memory.Line("fft", 1, 300, 200), memory.Line("scale-preserve", 1, 90, 80)]
    estimated, measured = memory.targets(lines, "llama-1b")
    assert (estimated.value, estimated.reached) == (0.3, True)
    assert (measured.value, measured.reached) == (0.4, False)


def test_startup(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "PROGRAMS", {"python": "pass", "slow": "sum(range(10**6))"})
    record = measured("startup", "--repetitions", "2", title="Starting")
    assert [line["program"] for line in record["lines"]] == ["python", "slow"]
    assert all(0 < line["wall_seconds"] < 60 for line in record["lines"])


def test_a_program_that_does_not_start_is_seen() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        startup.started("import scale_clj", 1)


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
    assert cache["tokens"] == library["tokens"] + 5 * 30  # each text is closed
    assert windows["tokens"] == cache["tokens"] // tokenise.LENGTH * tokenise.LENGTH
    assert [target["value"] for target in record["targets"]] == [cache["wall_ratio"], windows["wall_ratio"]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What `all` starts; each leaves a record with one target, reached by all but gen-bios. eval fails."""
    commands: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "benchmarks.speed"]
        commands.append(command[3:])
        name, *_, option, out = command[3:]
        assert option == "--out"
        if name == "eval":
            return SimpleNamespace(returncode=1)
        value = 2.5 if name == "gen-bios" else 1.0
        target = {"what": f"time of {name}", "value": value, "limit": 1.15, "reached": value <= 1.15}
        Path(out).write_text(json.dumps({"targets": [target]}), encoding="utf-8")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(speed_all, "subprocess", SimpleNamespace(run=run))
    return commands


def test_all(started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [name for name in speed_all.RUNS if name != "eval"]
    assert main(["all", str(tmp_path / "records"), "--only", ",".join(chosen)]) == 0
    files = [str(tmp_path / "records" / f"speed-{name}.json") for name in chosen]
    assert started == [[*speed_all.RUNS[name], "--out", file] for name, file in zip(chosen, files, strict=True)]
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    for row, name in zip(rows, chosen, strict=True):
        value, verdict = ("2.500", "missed") if name == "gen-bios" else ("1.000", "reached")
        assert row == [name, f"time of {speed_all.RUNS[name][0]}", value, "1.150", verdict]


def test_everything_is_measured_where_nothing_is_chosen(
    started: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(speed_all.RUNS, "eval")
    assert main(["all", str(tmp_path)]) == 0
    assert {name for name, *_ in started} == {*MEASUREMENTS} - {"all", "eval"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["{tmp}", "--only", "startup,walk"], "--only startup,walk: 'walk' is not one of {names}"),
        (["{tmp}", "--only", "startup,eval,gen-bios"], "eval failed; what it said stands above"),
        (["/dev/null/x"], "/dev/null/x cannot be written: Not a directory; mend that or choose another folder"),
    ],
)
def test_a_mistake_ends_with_one_line(
    words: list[str], line: str, started: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["all", *(word.format(tmp=tmp_path) for word in words)]) == 2
    names = ", ".join(speed_all.RUNS)
    assert capsys.readouterr().err == f"benchmarks.speed: {line.format(names=names)}\n"
    assert "gen-bios" not in [name for name, *_ in started]


@pytest.mark.slow
def test_all_really_runs(tmp_path: Path) -> None:
    words = ["all", str(tmp_path), "--only", "startup,gen-bios"]
    command = [sys.executable, "-m", "benchmarks.speed", *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "seconds for 200,000 people" in ended.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["speed-gen-bios.json", "speed-startup.json"]
