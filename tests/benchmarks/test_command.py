"""The command line that all scripts of `benchmarks` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer

from benchmarks.command import Result, run
from scale_cli.core.errors import RequestError
from scale_cli.core.records import read_record

PROGRAM = "python -m benchmarks.toy"


def toy(count: Annotated[int, typer.Option(min=1, help="A number.")] = 2, name: str = "x") -> Result:
    """Count to a number."""
    if name == "nobody":
        raise RequestError(f"--name {name}: choose another")
    figure = (lambda path: path.touch()) if count == 3 else None
    return Result([f"{name} {count}", "end"], {"count": count}, exit_code=int(count == 5), figure=figure)


def test_a_script_prints_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a record.json"
    assert run(toy, PROGRAM, ["--count", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out == "x 3\nend\n"
    record = read_record(out)
    assert (record["command"], record["count"]) == (f"{PROGRAM} --count 3 --out '{out}'", 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a record.json", "a record.png"]
    assert run(toy, PROGRAM, []) == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert run(toy, PROGRAM, ["--count", "5"]) == 1


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toy, PROGRAM, ["--help"]) == 0
    printed = capsys.readouterr().out
    for text in (f"Usage: {PROGRAM}", "Count to a number.", "A number.  [default: 2", "Write a record to this file."):
        assert text in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--name", "nobody"], "--name nobody: choose another"),
        (["--count", "0"], "Invalid value for '--count': "),
        (["--counts", "1"], "No such option: --counts "),
    ],
)
def test_a_mistake_ends_with_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(toy, PROGRAM, words) == 2
    completed = capsys.readouterr()
    assert (completed.out, completed.err.count("\n")) == ("", 1)
    assert completed.err.startswith(f"{PROGRAM}: {line}")
