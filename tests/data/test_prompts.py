"""Prompts from files and from standard input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from scale_cli.data.prompts import read_prompts
from tests.helpers import refusal


def test_lines_rows_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  \ntwo three\n", encoding="utf-8")
    rows = [{"text": "first\nsecond", "q": "국회는"}, {"text": "", "q": "b"}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_prompts(str(tmp_path / "a.txt")) == ["one", "two three"]
    assert read_prompts(str(tmp_path / "b.jsonl")) == ["first\nsecond"]
    assert read_prompts(f"{tmp_path / 'b.jsonl'}:q") == ["국회는", "b"]
    monkeypatch.setattr("sys.stdin", io.StringIO("x y\n\nz"))
    assert read_prompts("-") == ["x y", "z"]


def test_wrong_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(" \n", encoding="utf-8")
    assert refusal(read_prompts, str(tmp_path / "a.txt")).endswith("a.txt: there is no prompt in it")
    assert refusal(read_prompts, str(tmp_path / "b.txt")).endswith("b.txt: no such file or folder")
    assert refusal(read_prompts, "org/name").startswith("--prompts org/name: no such file; give a file, or -")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), encoding="utf-8"))
    assert refusal(read_prompts, "-").startswith("--prompts -: standard input is not UTF-8")
