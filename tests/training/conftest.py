"""Fixtures of trainings that read old text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of old texts."""
    file = tmp_path / "texts.jsonl"
    rows = [f"Ann Lee {number} was born in Lima and studied music in Boston." for number in range(20)]
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return file
