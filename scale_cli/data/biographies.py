"""Reading a folder that `scale gen-bios` wrote: biographies and questions of a range of people."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from scale_cli.core.errors import RequestError


@dataclass(frozen=True)
class Question:
    """One question on one attribute of one person. `answer` begins with a space."""

    person_id: int
    attribute: str
    prompt: str
    answer: str


def is_bios_folder(folder: Path) -> bool:
    """Whether `folder` is what `scale gen-bios` writes."""
    return (folder / "manifest.json").is_file() and (folder / "biographies.parquet").is_file()


def check_people(folder: Path, people: tuple[int, int] | None) -> tuple[int, int]:
    """The range of people asked for, all where None. Raises RequestError where the folder lacks them."""
    if not is_bios_folder(folder):
        raise RequestError(f"{folder} is not a gen-bios folder; make one with: scale gen-bios {folder}")
    count = int(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["people"])
    first, last = people or (0, count)
    if not 0 <= first < last <= count:
        raise RequestError(f"people {first}:{last}: {folder} has the people 0:{count}")
    return first, last


def read_biographies(folder: Path, people: tuple[int, int] | None = None) -> list[str]:
    """The biographies of the people A to B-1, in order of person and number. RequestError as `check_people`."""
    return list(_read(folder, "biographies.parquet", people, ["text"])["text"])


def read_questions(folder: Path, people: tuple[int, int] | None = None) -> list[Question]:
    """The questions on the people A to B-1, six each, in order. RequestError as `check_people`."""
    columns = _read(folder, "questions.parquet", people, ["person_id", "attribute", "prompt", "answer"])
    return [Question(*row) for row in zip(*columns.values(), strict=True)]


def _read(folder: Path, file: str, people: tuple[int, int] | None, columns: list[str]) -> dict[str, list[Any]]:
    first, last = check_people(folder, people)
    rows = [("person_id", ">=", first), ("person_id", "<", last)]
    return pq.read_table(folder / file, columns=columns, filters=rows).to_pydict()
