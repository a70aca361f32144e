"""`manifest.json`, the description of a folder of biographies: its fields, writing and reading."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen.facts import DataRequestError

FORMAT_VERSION = 1
GENERATOR_VERSION = "1.0"
FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class FileRecord:
    """One parquet file: its sha256, as hex, and its number of rows."""

    sha256: str
    rows: int


@dataclass(frozen=True)
class PoolRecord:
    """The origin of names and values.

    source: "frozen" (files of the generator) or "live" (drawn from faker with the seed).
    faker_version: None for frozen pools.
    sizes: number of items in each pool.
    full_names: number of different full names.
    note: the pools that are smaller than the frozen ones, empty if none.
    """

    source: str
    faker_version: str | None
    sizes: dict[str, int]
    full_names: int
    note: str


@dataclass(frozen=True)
class Manifest:
    """The description of one generated folder. Equal requests have equal manifests, so it has no times or machines.

    people, bios: as requested; bios is biographies per person.
    biographies, sentences, questions, characters: totals; characters counts the biographies' text.
    people_per_row_group: row group i of each file begins with person i times this number.
    bits_per_person: the knowledge in the data: `attributes` (log2 of the choices; the company determines its city),
        `name` (log2 of the choices of the set of names, per person) and their `total`.
    versions: of the packages that determine the bytes.
    files: by file name.
    split_answers: the number of people who have the first half of each pool of attributes; None if all have whole ones.
    """

    format_version: int
    generator_version: str
    seed: int
    locale: str
    people: int
    bios: int
    biographies: int
    sentences: int
    questions: int
    characters: int
    people_per_row_group: int
    bits_per_person: dict[str, float]
    pools: PoolRecord
    versions: dict[str, str]
    files: dict[str, FileRecord]
    split_answers: int | None = None

    def to_json(self) -> str:
        """The text of manifest.json, without `split_answers` if that is None."""
        fields = dataclasses.asdict(self)
        if self.split_answers is None:
            del fields["split_answers"]
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder that `generate` wrote.

    Raises DataRequestError if the folder has none, or has another format version.
    """
    hint = "give the folder that `scale gen-bios OUT` wrote"
    path = folder / FILE_NAME
    if not path.is_file():
        raise DataRequestError(f"{folder} holds no biographies, because it has no {FILE_NAME}; {hint}")
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = fields["format_version"]
        if version == FORMAT_VERSION:
            return _from_fields(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataRequestError(f"{path} is not the manifest of generated biographies; {hint}") from error
    raise DataRequestError(
        f"{folder} has format version {version!r} and only {FORMAT_VERSION} can be read; "
        "generate it again with `scale gen-bios OUT`"
    )


def _from_fields(fields: dict[str, Any]) -> Manifest:
    pools = PoolRecord(**fields["pools"])
    files = {name: FileRecord(**record) for name, record in fields["files"].items()}
    return Manifest(**fields | {"pools": pools, "files": files})
