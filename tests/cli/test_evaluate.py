"""`scale eval` prints what checkpoints know about people, and refuses what it cannot measure in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scale_cli.evaluation.evaluate import evaluate_bios
from scale_cli.files import plain
from tests.runs import Run, World, tree

RunCli = Callable[..., Any]


def test_checkpoints_and_runs(run_cli: RunCli, world: World, finished: Callable[..., Run]) -> None:
    sources = [str(world.checkpoint("llama")), str(finished("scale-route").folder)]
    ended = run_cli("eval", *sources, "--bios", world.data, "--people", "0:2", "--json")
    assert ended.code == 0
    results = evaluate_bios(sources, world.data, "0:2")
    assert json.loads(ended.stdout) == plain(results)
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("checkpoints: 2 of 2 (100%)")

    ended = run_cli("eval", *sources, "--bios", world.data, "--people", "0:2", "--batch-size", 3)
    assert ended.code == 0
    assert ended.stdout.splitlines()[0].strip() == f"{world.data}, people 0:2"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    assert [row[:2] for row in rows[::7]] == [[source, "mean"] for source in sources]
    assert [row[-1] for row in rows] == ["12", *["2"] * 6] * 2
    for source, row in zip(sources, rows[::7], strict=True):
        hard = results[source][0]
        assert row[2] == f"{100 * hard.value:.1f} ± {100 * (hard.stderr or 0):.1f}"
    assert [row[5] == "-" for row in rows[::7]] == [True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["BASE"], "nothing to measure: give --bios DIR, a folder made by scale gen-bios"),
        ([], "Missing argument 'checkpoints'"),
        (["DATA", "--bios", "DATA"], "data is no checkpoint: it has neither config.json nor trained.json"),
        (["BASE", "/no/such/model", "--bios", "DATA"], "/no/such/model: no such folder; give a checkpoint's folder"),
        (["BASE", "--bios", "BASE"], "llama-plain is not a gen-bios folder; make one with: scale gen-bios"),
        (["BASE", "--bios", "DATA", "--people", "0:25"], "people 0:25: "),
        (["BASE", "--bios", "DATA", "--people", "some"], "--people 'some': write A:B"),
        (["BASE", "--bios", "DATA", "--batch-size", "0"], "--batch-size 0: at least 1"),
        (["BASE", "--bios", "DATA", "--batch-size", "-3"], "--batch-size -3: at least 1"),
    ],
)
def test_a_mistake_ends_with_one_line(
    words: list[str], message: str, run_cli: RunCli, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"BASE": world.checkpoint("llama"), "DATA": world.data}
    ended = run_cli("eval", *(names.get(word, word) for word in words))
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert tree(tmp_path) == {}
