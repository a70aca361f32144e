"""`scale gen-bios` writes the data set, prints a summary, and refuses in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RunCli = Callable[..., Any]


def test_result_for_people_and_for_programs(run_cli: RunCli, tmp_path: Path) -> None:
    words = ("--people", 40, "--bios", 2, "--seed", 3)
    ended = run_cli("gen-bios", tmp_path / "a", *words)
    assert ended.code == 0
    assert all(f" {name} " in ended.stdout for name in ("people", "biographies", "bits of knowledge", "seconds"))
    assert "people: 40 of 40 (100%)" in ended.stderr

    ended = run_cli("gen-bios", tmp_path / "b", *words, "--workers", 2, "--json")
    result = json.loads(ended.stdout)
    files = {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
    assert (result["people"], result["biographies"], result["questions"]) == (40, 80, 240)
    assert result["bytes"] == sum(map(len, files.values()))
    assert {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()} == files


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--people", 0], "people 0"),
        (["--people", -5], "people -5"),
        (["--bios", 0], "bios 0"),
        (["--seed", -1], "seed -1"),
        (["--workers", 0], "workers 0"),
        (["--people", 400 * 400 * 1000 + 1], "people 160000001"),
        (["--people", 4, "--locale", "xx_XX"], "xx_XX"),
    ],
)
def test_bad_requests_end_with_one_line(run_cli: RunCli, tmp_path: Path, words: list[object], named: str) -> None:
    ended = run_cli("gen-bios", tmp_path / "out", *words)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("scale: ")
    assert ended.stderr.count("\n") == 1
    assert named in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    ended = run_cli("gen-bios", tmp_path, "--people", 4)
    assert (ended.code, ended.stdout) == (2, "")
    assert "already holds files" in ended.stderr
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("mine", "kept")]
