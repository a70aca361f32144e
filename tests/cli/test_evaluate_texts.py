"""`scale eval --perplexity` and `--drift`: what is printed and written, what is not measured twice, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scale_cli.core.files import plain
from scale_cli.data.biographies import read_biographies
from scale_cli.data.corpora import read_corpora
from scale_cli.data.windows import WindowOptions
from scale_cli.evaluation.drift import DriftJob
from scale_cli.evaluation.perplexity import PerplexityJob
from scale_cli.evaluation.subject import load, targets
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import read_results
from tests.processes import together
from tests.runs import Run, World, tree

RunCli = Callable[..., Any]
CHANGING = ("seconds", "created")


@pytest.fixture
def english(world: World, tmp_path: Path) -> Path:
    """Six biographies, a row each."""
    file = tmp_path / "english.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in read_biographies(world.data)[:6]))
    return file


def without_times(measurements: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in plain(m).items() if name not in CHANGING} for m in measurements]


def measured_alone(source: str, jobs: list[Any]) -> list[Measurement]:
    (target,) = targets([source], dtype=None, device=torch.device("cpu"))
    subject = load(target, device=torch.device("cpu"), batch_size=None, seed=0)
    return [m for job in jobs for m in job.run(subject, lambda **steps: None).measurements]


def test_every_number_is_the_library_functions(
    run_cli: RunCli, world: World, finished: Callable[..., Run], english: Path, tmp_path: Path
) -> None:
    sources = [str(finished(method).folder) for method in ("scale-route", "llama-pro")]
    names = [f"a={sources[0]}", f"b={sources[1]}"]
    words = ["--perplexity", f"english={english}", "--perplexity", f"all={tmp_path}", "--perplexity-documents", 5]
    words += ["--perplexity-length", 40, "--perplexity-stride", 30, "--drift", "--drift-tokens", 90]
    ended = run_cli("eval", *names, *words, "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.stderr
    options = WindowOptions(40, 30)
    corpora = read_corpora([f"english={english}", f"all={tmp_path}"], limit=5)
    jobs = [*(PerplexityJob(corpus, options) for corpus in corpora), DriftJob(corpora, options, tokens=90)]
    printed = json.loads(ended.stdout)
    for source, entry, result in zip(sources, printed, read_results([tmp_path / "out"]), strict=True):
        wanted = without_times(measured_alone(source, jobs))
        assert without_times(entry["measurements"]) == json.loads(json.dumps(wanted))
        assert without_times(result.measurements) == json.loads(json.dumps(wanted))
        assert result.path is not None
        routed = [m.routed is not None for m in result.measurements if m.task != "drift"]
        assert routed == [entry["checkpoint"]["label"] == "a"] * len(routed)
    assert ended.stderr.count("b: drift (3 of 3): 3 of 3 (100%)") == 2  # three windows of each text


def test_the_table(run_cli: RunCli, world: World, finished: Callable[..., Run], english: Path) -> None:
    sources = [f"preserve={finished('scale-preserve').folder}", f"wide={world.checkpoint('llama', 'width')}"]
    ended = run_cli("eval", *sources, "--perplexity", f"english={english}", "--drift")
    assert ended.code == 0
    rows = [re.split(" {2,}", line.rstrip()) for line in ended.stdout.splitlines()]
    first, second = ([row[1:] for row in rows if row[0] == label] for label in ("preserve", "wide"))
    texts = read_corpora([f"english={english}"])
    for source, shown in ((finished("scale-preserve").folder, first), (world.checkpoint("llama", "width"), second)):
        (target,) = targets([str(source)], dtype=None, device=torch.device("cpu"))
        expected = measured_alone(target.checkpoint.source, [PerplexityJob(texts[0], WindowOptions())])
        for cell, measurement in zip(shown[0][3:6], expected, strict=True):
            value, error = map(float, cell.rstrip("*").split(" ± "))
            assert value == pytest.approx(measurement.value, rel=5e-3)
            assert error == pytest.approx(measurement.stderr, rel=5e-2)
    assert len(first[0]) == len(second[0]) == 6  # cost and perplexity
    assert len(first[1]) == len(second[1]) == 11  # the norms of W12, W21, W22 and all three, and drift on the text
    assert first[1][:2] == second[1][:2] == ["0.00", "0.00"]  # W12
    for row, cells in ((first[1], 1), (second[1], 3)):  # cosine; that of the fresh model, divergence and agreement
        values = [tuple(map(float, cell.rstrip("*").split(" ± "))) for cell in row[8:]]
        assert values[:cells] == [(1.0, 0.0), (0.0, 0.0), (1.0, 0.0)][:cells]


def test_a_second_call_measures_what_is_missing(run_cli: RunCli, world: World, english: Path, tmp_path: Path) -> None:
    source, out = world.checkpoint("llama", "width"), tmp_path / "out"

    def call(*more: object) -> tuple[str, list[str | None]]:
        ended = run_cli("eval", source, "--perplexity", f"english={english}", "--out", out, *more)
        assert ended.code == 0, ended.stderr
        (result,) = read_results([out])
        return ended.stderr, [m.task_version for m in result.find("perplexity:english", "bits_per_byte")]

    said, versions = call()
    assert "already" not in said
    before = tree(out)
    said, again = call()
    assert (said, again) == (f"llama-width: 1 of 1 are in {out} already\n", versions)
    assert tree(out) == before
    said, versions = call("--drift")
    assert said.startswith(f"llama-width: 1 of 2 are in {out} already\nllama-width: drift (1 of 1)")
    assert len(versions) == 1
    assert len(call("--perplexity-stride", 20)[1]) == 2
    assert len(call("--perplexity-packing", "documents")[1]) == 3
    english.write_text('{"text": "Other text."}\n{"text": "And more."}\n')
    assert len(call()[1]) == 4
    assert len(call("--drift", "--base", world.checkpoint("llama"))[1]) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", "BASE"], "--base BASE: only --drift and --router need a base; add one of them"),
        (["--perplexity-stride", "9"], "--perplexity-stride 9: there is no text to read; add --perplexity NAME=SOURCE"),
        (["--perplexity", "a=TMP/bad.jsonl"], "TMP/bad.jsonl, line 2 is not UTF-8: 'utf-8' codec can't decode byte"),
        (["--perplexity", "e=TMP/english.jsonl", "--perplexity-length", "9999"], "--perplexity-length 9999: the model"),
        (["--drift", "--perplexity-packing", "rows"], "Invalid value for '--perplexity-packing': "),
    ],
)
def test_a_mistake_ends_with_one_line(
    words: list[str], message: str, run_cli: RunCli, world: World, english: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    before = tree(tmp_path)

    def filled(word: str) -> str:
        return word.replace("BASE", str(world.checkpoint("llama"))).replace("TMP", str(tmp_path))

    ended = run_cli("eval", world.checkpoint("llama"), *map(filled, words), "--out", tmp_path / "out")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"scale: {filled(message)}")
    assert tree(tmp_path) == before


def test_two_processes_find_what_one_does(
    run_cli: RunCli, world: World, finished: Callable[..., Run], english: Path, tmp_path: Path
) -> None:
    """And a text with a single window is too little for both."""
    short = tmp_path / "short.txt"
    short.write_text("A few words.")
    texts = [word for name, file in (("e", english), ("s", short)) for word in ("--perplexity", f"{name}={file}")]
    words = ["eval", finished("scale-route").folder, *texts, "--drift", "--perplexity-length", "40", "--json"]
    printed = together(2, tmp_path, words)
    shared, alone = (
        {(m["task"], m["metric"]): m for m in json.loads(text)[0]["measurements"]}
        for text in (printed, run_cli(*words).stdout)
    )
    assert alone.keys() == shared.keys()
    for key, measurement in alone.items():
        for name in ("value", "stderr", "routed"):
            if measurement[name] is None:
                assert shared[key][name] is None
            else:
                assert shared[key][name] == pytest.approx(measurement[name], rel=1e-5, abs=1e-9), key
        assert shared[key]["samples"] == measurement["samples"]
