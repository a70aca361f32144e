"""A hub dataset without a hub: the library's own readers stream `org/name` from local files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, **splits: Sequence[Sequence[str | None]]) -> None:
    """Give `org/name` these splits, with one file per list of texts, written to a new folder."""
    folder.mkdir()
    files: dict[str, list[str]] = {}
    for split, shards in splits.items():
        for number, texts in enumerate(shards):
            file = folder / f"{split}-{number}.jsonl"
            file.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
            files.setdefault(split, []).append(str(file))
    real = REAL

    def builder(name: str, config: str | None) -> Any:
        return real("json", data_files=files) if name == "org/name" else real(name, config)

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)


REAL = datasets.load_dataset_builder
