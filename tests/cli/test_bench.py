"""`scale bench` runs a recipe, prints its table, and refuses what it cannot run in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bios
from scale_cli.records import read_record
from scale_cli.reporting.bios import table_rows
from tests.runs import bench_file, tree

RunCli = Callable[..., Any]


def test_a_benchmark(run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bios, "TASK0_NEEDED", 0.0)
    monkeypatch.chdir(tmp_path)
    file = bench_file(tmp_path)
    ended = run_cli("bench", "bios", "--preset", file, "--methods", "scale-route")
    assert ended.code == 0
    out = Path("runs/bios-tiny")  # where it goes without --out
    record = read_record(out / "results.json")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.stdout.splitlines() if "│" in line]
    assert rows == table_rows(record["rows"])
    said = ended.stderr.splitlines()
    assert said[0] == "data: 16 people, 2 biographies each"
    assert said[-1].endswith("s in all; records, table.md and curves.png are in runs/bios-tiny")
    assert [line.split(":")[0] for line in said if "100%" in line] == [
        "pretrain (seed 0)",
        "task0 (seed 0)",
        "scale-route (seed 0)",
    ]

    ended = run_cli(
        "bench", "bios", "--preset", file, "--methods", "scale-route", "--seeds", "0", "--out", out, "--json"
    )
    assert ended.code == 0
    result = json.loads(ended.stdout)
    assert result["rows"] == record["rows"]
    assert result["curves"] == record["curves"]
    assert len(ended.stderr.splitlines()) == 2  # nothing is run again: Task 0's accuracy, and where it is


BAD = {
    "unknown benchmark": (["bio"], "'bio' is not one of 'bios'"),
    "unknown preset": (["bios", "--preset", "dmo"], "--preset dmo: choose demo, small, paper, or give a YAML file"),
    "unknown method": (["bios", "--methods", "fft,best"], "--methods best: choose from fft, lora, freeze, llama-pro, "),
    "no seed": (["bios", "--seeds", "x"], "--seeds x: write whole numbers with commas between, as in 0,1,2"),
    "a seed twice": (["bios", "--seeds", "1,1"], "--seeds 1,1: name at least one, each once"),
    "unknown key": (["bios", "--preset", "unknown.yaml"], "unknown.yaml: unknown key 'peple'; did you mean 'people'?"),
    "no recipe": (["bios", "--preset", "list.yaml"], "list.yaml: a recipe is a list of `key: value` lines"),
    "people": (["bios", "--preset", "people.yaml"], "8 + 9 people of 16: pre-training and Task 1 need at least 2"),
    "full folder": (["bios", "--out", "full"], "full already holds files of something else; choose a new or an empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_ends_with_one_line_and_writes_nothing(
    case: str, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, changes in (("unknown", {"peple": 5}), ("people", {"task1_people": 9})):
        Path(bench_file(tmp_path, **changes)).rename(tmp_path / f"{name}.yaml")
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    before = tree(tmp_path)
    words, message = BAD[case]
    ended = run_cli("bench", *words)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert message in ended.stderr
    assert tree(tmp_path) == before


def test_task_0_that_is_not_learnt_ends_with_one_line_and_can_go_on(run_cli: RunCli, tmp_path: Path) -> None:
    ended = run_cli("bench", "bios", "--preset", bench_file(tmp_path), "--out", tmp_path / "out")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith("scale: Task 0 reached 0.")
    assert "and 0.95 is needed before Task 1" in ended.stderr
    seed = tmp_path / "out" / "seed-0"
    assert {path.name for path in seed.iterdir()} == {"pretrain", "task0"}
