"""What `--data` and `--perplexity` name: files, folders, globs, gen-bios folders and data sets of the hub.

A document is a row of a .jsonl or .parquet file or a data set, and the whole of any other file. Importing this loads no
library that reads one.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.records import sha256_file
from scale_cli.data.biographies import is_bios_folder, read_biographies
from scale_cli.data.texts import FIELD, checked_text, read_file

SUFFIXES = (".txt", ".jsonl", ".parquet")
"""The files of a folder that hold texts."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^:]*){0,3}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
BATCH_CHARACTERS = 2**20
"""Enough to keep every core busy with tokenising, few enough for its memory."""
HASHED_BYTES = 2**30
"""Of a larger file, size and time of the last change stand for its bytes, which would take long to read."""


@dataclass(frozen=True)
class FileSource:
    """Texts in files. place: what names them. field: that of a row. people: of a gen-bios folder, None for all."""

    place: Path
    files: tuple[Path, ...]
    field: str = FIELD
    people: tuple[int, int] | None = None

    @property
    def is_bios(self) -> bool:
        return is_bios_folder(self.place)

    def texts(self) -> Iterator[str]:
        """All texts in order. RequestError, naming the row, for what is none."""
        if self.people is not None:
            return iter(read_biographies(self.place, self.people))
        return itertools.chain.from_iterable(read_file(file, self.field) for file in self.files)

    def batches(self, state: Any = None) -> Iterator[tuple[list[str], Any]]:
        """The texts in batches, each with the state behind it; from a state on, or from the beginning."""
        rows = state["rows"] if state else 0
        for batch in _in_batches(itertools.islice(self.texts(), rows, None)):
            rows += len(batch)
            yield batch, {"rows": rows}

    def identity(self) -> dict[str, Any]:
        """What the texts are, wherever the files lie: as JSON, the same for the same texts and no others."""
        files = [[file.suffix, _content(file)] for file in self.files]
        return {"files": files, "field": self.field, "people": self.people}

    def fingerprint(self) -> str:
        """The sha256 of a file, of a gen-bios folder's manifest, which holds those of its files, or of many files'."""
        if self.is_bios:
            return sha256_file(self.place / "manifest.json")
        contents = [_content(file) for file in self.files]
        return contents[0] if len(contents) == 1 else hashlib.sha256("\n".join(contents).encode()).hexdigest()


@dataclass(frozen=True)
class HubSource:
    """A data set of the hub. An empty config, split or field is what is usual."""

    name: str
    config: str
    split: str
    field: str

    def open(self, option: str, split: str) -> HubTexts:
        """Look it up. split: the one that is meant where none is named, or else the only one.

        Raises RequestError, which begins with `option`, for what is not there or out of reach.
        """
        import datasets

        with _hub_errors(option):
            builder = datasets.load_dataset_builder(self.name, self.config or None)
            if self.split:
                split = self.split
                builder.as_streaming_dataset(split=split)
            else:
                found = list(builder.as_streaming_dataset())
                if split not in found:
                    if len(found) > 1:
                        names = f"name a split, {self.name}:{self.config}:SPLIT, of {', '.join(found)}"
                        raise RequestError(f"{option}: {names}")
                    (split,) = found
        return HubTexts(option, builder, split, self.field or FIELD, self.name)


@dataclass(frozen=True)
class HubTexts:
    """A split of a data set, streamed, or read from the cache where the hub cannot be reached."""

    option: str
    builder: Any
    split: str
    field: str
    name: str

    def texts(self) -> Iterator[str]:
        """All texts in order. RequestError for a row without one, or where the stream breaks off."""
        return self._texts(self._stream(), 0)

    def batches(self, state: Any = None) -> Iterator[tuple[list[str], Any]]:
        """The texts in batches, each with the state behind it as JSON; from a state on, or from the beginning."""
        stream, rows = self._stream(), 0
        if state is not None:
            rows = state["rows"]
            stream.load_state_dict(state["stream"])
        for batch in _in_batches(self._texts(stream, rows)):
            rows += len(batch)
            yield batch, {"rows": rows, "stream": stream.state_dict()}

    def _stream(self) -> Any:
        with _hub_errors(self.option):
            return self.builder.as_streaming_dataset(split=self.split)

    def _texts(self, stream: Any, rows: int) -> Iterator[str]:
        with _hub_errors(self.option):
            for number, row in enumerate(stream, rows + 1):
                if self.field not in row:
                    raise RequestError(f"{self.option}: it has no field `{self.field}`; it has {', '.join(row)}")
                yield checked_text(row[self.field], self.field, f"{self.option}, document {number}")

    def identity(self) -> dict[str, Any]:
        """What the texts are, as JSON."""
        config = self.builder.config.name
        return {"hub": self.name, "config": config, "split": self.split, "field": self.field, "revision": self.revision}

    @property
    def revision(self) -> str:
        """The commit; of a data set in the cache, the hash under which it lies there."""
        return str(self.builder.hash)

    def fingerprint(self) -> str:
        """The commit that was read."""
        return self.revision


def find_source(option: str, source: str) -> FileSource | HubSource:
    """What `source` means: a file, a folder (its .txt, .jsonl and .parquet files at any depth, or what gen-bios wrote)
    or a glob, each with `:FIELD` behind it where the text of a row is not in `text`; or a data set of the hub as
    ORG/NAME[:CONFIG[:SPLIT[:FIELD]]].

    Nothing is read, and no hub is asked. Raises RequestError, which begins with `option`, for what is none of these.
    """
    place, files, field = source, _files(source), FIELD
    if files is None:
        before, _, last = source.rpartition(":")
        if before and last:
            place, files, field = before, _files(before), last
    if files is not None:
        if not files:
            raise RequestError(f"{option}: a folder without {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files")
        return FileSource(Path(place).expanduser(), tuple(files), field)
    if not HUB_ID.fullmatch(source) or source.startswith("."):
        raise RequestError(f"{option}: no such file or folder")
    if source.partition(":")[0].endswith(SUFFIXES):
        raise RequestError(f"{option}: no such file")
    return HubSource(*(source.split(":") + [""] * 3)[:4])


def split_weight(source: str) -> tuple[str, float | None]:
    """A source and the weight behind it: the last part, where it is a number and no file's name ends in it."""
    before, _, last = source.rpartition(":")
    if before and NUMBER.fullmatch(last) and not Path(source).expanduser().exists():
        return before, float(last)
    return source, None


def _files(place: str) -> list[Path] | None:
    """The files with texts that `place` means, None where nothing is there."""
    path = Path(place).expanduser()
    if path.is_dir():
        if is_bios_folder(path):
            return [path / "biographies.parquet"]
        return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
    if path.exists():
        return [path]
    if glob.has_magic(place):
        return [Path(found) for found in sorted(glob.glob(str(path), recursive=True)) if Path(found).is_file()] or None
    return None


def _in_batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Texts of about `BATCH_CHARACTERS` together. None is taken before it is needed, so a state is that of a batch."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _content(file: Path) -> str:
    """The sha256 of a file's bytes, as hex; of a large one that of what changes when they do."""
    try:
        status = file.stat()
        if status.st_size < HASHED_BYTES:
            return sha256_file(file)
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror or error}") from error
    words = json.dumps([str(file.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(words.encode()).hexdigest()


@contextlib.contextmanager
def _hub_errors(option: str) -> Iterator[None]:
    """What `datasets` says of a data set, as a RequestError that begins with `option`."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the client it uses

    try:
        yield
    except RequestError:
        raise
    except ConnectionError as error:
        raise RequestError(
            f"{option}: no such file, and as a data set of the hub it is not in the cache and the hub cannot be "
            "reached; give a file, or go online (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset)"
        ) from error
    except (OSError, ValueError, HTTPError) as error:  # no such data set, config or split, or refused
        raise RequestError(f"{option}: {' '.join(str(error).split())}") from error
