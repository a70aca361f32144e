"""Generated folders that several tests read."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import data_gen

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Generated:
    """A folder, its manifest, and the rows of its tables."""

    folder: Path
    manifest: data_gen.Manifest
    people: list[Row]
    biographies: list[Row]
    questions: list[Row]


def read(folder: Path) -> Generated:
    tables: Mapping[str, list[Row]] = {
        name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("people", "biographies", "questions")
    }
    return Generated(folder, data_gen.read_manifest(folder), **tables)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """1,000 people with 5 biographies each."""
    out = tmp_path_factory.mktemp("data_gen") / "out"
    data_gen.generate(out, people=1_000, bios=5, seed=1)
    return read(out)


@pytest.fixture(scope="session")
def korean(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """200 people with Korean names, 3 biographies each."""
    out = tmp_path_factory.mktemp("data_gen") / "out"
    data_gen.generate(out, people=200, bios=3, seed=1, locale="ko_KR")
    return read(out)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11,000 people with 5 biographies each: two row groups of 5,000 and a shorter one."""
    out = tmp_path_factory.mktemp("data_gen") / "out"
    data_gen.generate(out, people=11_000, bios=5, seed=7, workers=1)
    return out
