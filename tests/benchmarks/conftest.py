"""Running a speed measurement at tiny sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import gen_bios, growth, memory
from benchmarks.speed.__main__ import main
from benchmarks.speed.shapes import SHAPES
from tests.benchmarks.test_speed import ROOT, TINY

Measured = Callable[..., dict[str, Any]]
RECORDS = ROOT / "benchmarks" / "records" / "speed"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that measurements run in a new process run in this one."""
    for module in (gen_bios, growth, memory):
        monkeypatch.setattr(module, "in_own_process", lambda function, *values, **named: function(*values, **named))


@pytest.fixture
def measured(
    in_this_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Measured:
    """The record of a measurement with one thread. Its fields are those of the record in benchmarks/records/speed."""
    for name in ("llama-small", "llama-1b"):
        monkeypatch.setitem(SHAPES, name, TINY)

    def measure(name: str, *words: str, title: str, progress: str = "", like: str | None = None) -> dict[str, Any]:
        words = (*words, "--threads", "1", "--out", str(tmp_path / "record.json"))
        assert main([name, *words]) == 0
        printed = capsys.readouterr()
        assert title in printed.out
        assert "…" not in printed.out
        assert printed.err == progress
        record: dict[str, Any] = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
        assert record["command"] == " ".join(["python -m benchmarks.speed", name, *words])
        assert fields(record) == fields(
            json.loads((RECORDS / f"speed-{like or name}.json").read_text(encoding="utf-8"))
        )
        return record

    return measure


def fields(record: dict[str, Any]) -> dict[str, Any]:
    """The names of a record's fields, each with the names in the first row or the object that it holds."""
    first = {name: value[0] if value and isinstance(value, list) else value for name, value in record.items()}
    common = {"environment", "git", "recipe", "targets"}  # the benchmark's own, or without a row at tiny sizes
    return {
        name: sorted(value) if isinstance(value, dict) and name not in common else None for name, value in first.items()
    }
