"""Reading a gen-bios folder: biographies of a range of people, and questions on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from scale_cli.core.errors import RequestError
from scale_cli.core.files import read_json
from scale_cli.core.records import sha256_file
from scale_cli.data.texts import read_tables


@dataclass(frozen=True)
class Question:
    """One question on one attribute of one person. `answer` begins with a space."""

    person_id: int
    attribute: str
    prompt: str
    answer: str


class FileEntry(TypedDict):
    """A file in a manifest."""

    sha256: str


class Manifest(TypedDict):
    """The fields of manifest.json that are read here."""

    people: int
    files: dict[str, FileEntry]


def is_bios_folder(folder: Path) -> bool:
    """Whether `scale gen-bios` wrote this folder."""
    return (folder / "manifest.json").is_file() and (folder / "biographies.parquet").is_file()


def manifest_digest(folder: Path) -> str:
    """The sha256 of a gen-bios folder's manifest, which holds those of its files.

    Raises RequestError if a file is not the one that `scale gen-bios` wrote.
    """
    for name, written in read_json(folder / "manifest.json", Manifest)["files"].items():
        if not (folder / name).is_file() or sha256_file(folder / name) != written["sha256"]:
            raise RequestError(f"{folder / name} is not the file that scale gen-bios wrote; make {folder} again")
    return sha256_file(folder / "manifest.json")


def check_people(folder: Path, people: tuple[int, int] | None) -> tuple[int, int]:
    """The given range of people, or all if it is None. Raises RequestError if the folder lacks some of them."""
    if not is_bios_folder(folder):
        raise RequestError(f"{folder} is not a gen-bios folder; make one with: scale gen-bios {folder}")
    count = read_json(folder / "manifest.json", Manifest)["people"]
    first, last = people or (0, count)
    if not 0 <= first < last <= count:
        raise RequestError(f"people {first}:{last}: {folder} has the people 0:{count}")
    return first, last


def read_biographies(folder: Path, people: tuple[int, int] | None = None) -> list[str]:
    """The biographies of the people A to B-1, in order of person and number. Raises as `check_people` does."""
    return [text for (text,) in _rows(folder, "biographies.parquet", people, ("text",))]


def read_questions(folder: Path, people: tuple[int, int] | None = None) -> list[Question]:
    """The questions on the people A to B-1, six per person, in order. Raises as `check_people` does."""
    columns = ("person_id", "attribute", "prompt", "answer")
    return [Question(*row) for row in _rows(folder, "questions.parquet", people, columns)]


def _rows(folder: Path, file: str, people: tuple[int, int] | None, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    first, last = check_people(folder, people)
    filters = [("person_id", ">=", first), ("person_id", "<", last)]
    for table in read_tables(folder / file, columns, filters):
        yield from zip(*table.to_pydict().values(), strict=True)
