"""`scale eval` prints what checkpoints can do, and refuses what it cannot measure in one line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale_cli.core.files import plain
from scale_cli.evaluation.bios import BiographyJob
from scale_cli.evaluation.evaluate import evaluate
from scale_cli.results.measurement import Measurement
from scale_cli.results.result import read_results
from tests.runs import Run, World, tree
from tests.tasks import Tasks

RunCli = Callable[..., Any]


def rows(stdout: str, label: str) -> list[list[str]]:
    """The cells of a checkpoint, one list per block of the printed table."""
    lines = [re.split(" {2,}", line.rstrip()) for line in stdout.splitlines()]
    return [line[1:] for line in lines if line[0] == label]


def shown(m: Measurement) -> str:
    return f"{100 * m.value:.2f} ± {100 * (m.stderr or 0):.2f}"


def test_a_suite_of_checkpoints(run_cli: RunCli, world: World, finished: Callable[..., Run], tasks: Tasks) -> None:
    sources = [f"base={world.checkpoint('llama')}", f"route={finished('scale-route').folder}"]
    words = ["--suite", tasks.suite, "--batch-size", 3, "--limit", 4]
    ended = run_cli("eval", *sources, *words, "--json")
    assert ended.code == 0
    base, route = json.loads(ended.stdout)
    assert [of["checkpoint"]["label"] for of in (base, route)] == ["base", "route"]
    numbers = [[Measurement(**m) for m in of["measurements"]] for of in (base, route)]

    ended = run_cli("eval", *sources, *words)
    assert ended.code == 0

    def of(task: str, metric: str, filter: str = "none") -> list[Measurement]:
        return [next(m for m in found if (m.task, m.metric, m.filter) == (task, metric, filter)) for found in numbers]

    columns = [of("tiny_choice", "acc_norm"), of("tiny_words", "exact_match", "first"), of("tiny_group", "acc")]
    averages = [f"{100 * sum(m.value for m in row) / 3:.2f}" for row in zip(*columns, strict=True)]
    shown_base, shown_route = rows(ended.stdout, "base"), rows(ended.stdout, "route")
    for place, row in enumerate((shown_base, shown_route)):
        assert row[0][3:6] == [shown(column[place]) for column in columns]
        assert row[0][6].partition(" ")[0] == averages[place]
    routed = [f"{100 * (column[1].routed or 0):.2f}" for column in columns]
    assert (shown_base[0][8:], shown_route[0][8:]) == (["-"] * 3, routed)
    assert "stability: Tiny (first 4)" in ended.stdout
    assert "routed: share of scored tokens" in ended.stdout


def test_results_in_a_folder(run_cli: RunCli, world: World, tasks: Tasks, tmp_path: Path) -> None:
    """Told on the second call what is there; the record knows the words of the first."""
    words = ["eval", world.checkpoint("llama"), "--suite", tasks.suite, "--out", tmp_path / "out", "--seed", 5]
    first = run_cli(*words)
    assert first.code == 0
    assert first.stderr.splitlines()[-1].startswith("llama-plain: tiny_group (3 of 3): 53 of 53 (100%), ")
    before = tree(tmp_path / "out")
    second = run_cli(*words)
    assert (second.code, second.stdout) == (0, first.stdout)
    assert second.stderr == f"llama-plain: 3 of 3 are in {tmp_path / 'out'} already\n"
    assert tree(tmp_path / "out") == before
    (result,) = read_results([tmp_path / "out"])
    assert result.command == shlex.join(["scale", *map(str, words)])


def test_named_tasks_show_all_their_numbers(
    run_cli: RunCli, world: World, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks by name are the harness's; here those of a folder stand in for its own."""
    from scale_cli.evaluation import catalogue

    monkeypatch.setattr(catalogue, "TASKS", tasks.folder)
    catalogue._task_manager.cache_clear()
    catalogue.task_folders.cache_clear()
    try:
        source = world.checkpoint("llama")
        ended = run_cli("eval", source, "--tasks", "tiny_choice, tiny_text", "--num-fewshot", 1)
    finally:
        catalogue._task_manager.cache_clear()
        catalogue.task_folders.cache_clear()
    assert ended.code == 0
    heads = next(line for line in ended.stdout.splitlines() if line.startswith("checkpoint"))
    assert heads.split() == [
        "checkpoint",
        "acc",
        "acc_norm",
        *["word_perplexity", "↓", "byte_perplexity", "↓", "bits_per_byte", "↓"],
    ]
    ((choice, _, _, _, bits),) = rows(ended.stdout, "llama-plain")
    assert " ± " in choice
    assert float(bits) > 1  # bits, not percent


def test_biographies_of_checkpoints_and_runs(run_cli: RunCli, world: World, finished: Callable[..., Run]) -> None:
    sources = [f"base={world.checkpoint('llama')}", f"route={finished('scale-route').folder}"]
    ended = run_cli("eval", *sources, "--bios", world.data, "--people", "0:2", "--json")
    assert ended.code == 0
    results = evaluate(sources, [BiographyJob(world.data, "0:2")])
    wanted = [plain(result.measurements) for result in results]
    printed = [of["measurements"] for of in json.loads(ended.stdout)]
    for measurements in (*wanted, *printed):
        for measurement in measurements:
            assert measurement.pop("seconds") >= 0
            assert measurement.pop("created")
    assert printed == wanted
    assert [line.partition(":")[0] for line in ended.stderr.splitlines()] == ["base", "route"]

    ended = run_cli("eval", *sources, "--bios", world.data, "--people", "0:2", "--batch-size", 3)
    assert ended.code == 0
    assert "mean (n=12), birthday (n=2)" in ended.stdout
    for result in results:
        hard, soft, exact = rows(ended.stdout, result.checkpoint.label)
        assert hard[3] == shown(result.find("bios:0:2", "hard")[0])
        assert [row[place] for row, place in ((soft, 0), (exact, 0))] == [
            shown(result.find("bios:0:2", metric)[0]) for metric in ("soft", "exact")
        ]
        assert (exact[-1] == "-") == (result.checkpoint.label == "base")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["BASE"],
            "nothing to measure: give --suite english, --tasks a,b, --bios DIR, --perplexity NAME=FILE or --drift",
        ),
        (["BASE", "--tasks", " , "], "nothing to measure: give --suite english, "),
        ([], "Missing argument 'checkpoints'"),
        (["BASE", "--people", "0:5", "--drift"], "--people 0:5: only --bios has people; add --bios DIR"),
        (["BASE", "--bios", "DATA", "--batch-size", "-3"], "--batch-size -3: a whole number of at least 1, or auto"),
        (["BASE", "--bios", "DATA", "--seed", "-1"], "--seed -1: 0 to 2^32 - 1"),
        (
            ["BASE", "--bios", "DATA", "--out", "DATA/manifest.json"],
            "manifest.json is not a writable folder; choose another",
        ),
        (["BASE", "--bios", "DATA", "--out", "/dev/null/x"], "--out /dev/null/x: /dev/null is not a writable fol"),
    ],
)
def test_a_mistake_ends_with_one_line(
    words: list[str], message: str, run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    names = {"BASE": world.checkpoint("llama"), "DATA": world.data, "DATA/manifest.json": world.data / "manifest.json"}
    ended = run_cli("eval", *(names.get(word, word) for word in words))
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert tree(tmp_path / "here") == {}
