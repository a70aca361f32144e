"""The sources of `--data` and `--perplexity`: files, folders, globs, gen-bios folders and datasets of the hub.

Importing this does not import `datasets`.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_cli.core.errors import RequestError
from scale_cli.core.records import sha256_file
from scale_cli.data.biographies import is_bios_folder, manifest_digest, read_biographies
from scale_cli.data.texts import (
    COMPRESSIONS,
    ENDINGS,
    FIELD,
    FORMATS,
    ending_of,
    has_rows,
    quiet,
    read_texts,
    text_of,
)

DESCRIPTIONS = (".json", ".csv")
"""The formats that are left out of a folder, as files in them mostly describe the texts beside them."""
READ = f"{', '.join(FORMATS)} ({', '.join(COMPRESSIONS)} if compressed)"
SHOWN_ENDINGS = 8
"""The most endings of files that are not read in a message."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^:]*){0,3}")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
BATCH_CHARACTERS = 2**20
"""Characters per batch: enough to keep every core busy with tokenising, few enough for its memory."""
HASHED_BYTES = 2**30
"""A file of this size or more is identified by path, size and modification time, because hashing it takes long."""


@dataclass(frozen=True)
class FileSource:
    """Texts in files.

    place: the file, folder or pattern that was given. field: the field of a row. people: of a gen-bios folder, None for
    all. unread: the files of a folder that are left out, counted by ending; empty if there are none.
    """

    place: Path
    files: tuple[Path, ...]
    field: str = FIELD
    people: tuple[int, int] | None = None
    unread: str = ""

    @property
    def is_bios(self) -> bool:
        return is_bios_folder(self.place)

    def texts(self) -> Iterator[str]:
        """All texts in order. Raises RequestError with the file and the row for anything that is not text."""
        if self.people is not None:
            return iter(read_biographies(self.place, self.people))
        return read_texts(self.files, self.field)

    def batches(self, state: Any = None) -> Iterator[tuple[list[str], Any]]:
        """The texts in batches, each with the state after it; from a state on, or from the beginning."""
        rows = state["rows"] if state else 0
        for batch in _in_batches(itertools.islice(self.texts(), rows, None)):
            rows += len(batch)
            yield batch, {"rows": rows}

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def identity(self) -> dict[str, Any]:
        """A key of the texts as JSON, equal for the same texts in other folders and for no other texts."""
        files = [[ending_of(file), _content(file)] for file in self.files]
        return {"files": files, "field": self.field, "people": self.people}

    def fingerprint(self) -> str:
        """The sha256 of a file, of a gen-bios folder's manifest, which holds those of its files, or of many files'."""
        if self.is_bios:
            return manifest_digest(self.place)
        contents = [_content(file) for file in self.files]
        return contents[0] if len(contents) == 1 else hashlib.sha256("\n".join(contents).encode()).hexdigest()


@dataclass(frozen=True)
class HubSource:
    """A dataset of the hub. An empty config, split or field is the default."""

    name: str
    config: str
    split: str
    field: str

    def open(self, option: str, split: str) -> HubTexts:
        """Look up the dataset on the hub.

        split: the default split. A dataset without it must have a single split.
        Raises RequestError, which begins with `option`, if the dataset does not exist or cannot be reached.
        """
        import datasets

        with _hub_errors(option), quiet():
            builder = datasets.load_dataset_builder(self.name, self.config or None)
            if self.split:
                split = self.split
                builder.as_streaming_dataset(split=split)
            else:
                splits = list(builder.as_streaming_dataset())
                if split not in splits:
                    if len(splits) > 1:
                        names = f"name a split, {self.name}:{self.config}:SPLIT, of {', '.join(splits)}"
                        raise RequestError(f"{option}: {names}")
                    (split,) = splits
        return HubTexts(option, builder, split, self.field or FIELD, self.name)


@dataclass(frozen=True)
class HubTexts:
    """A split of a dataset, streamed, or read from the cache if the hub cannot be reached."""

    option: str
    builder: Any
    split: str
    field: str
    name: str

    def texts(self) -> Iterator[str]:
        """All texts in order. Raises RequestError for a row without text, and if the stream breaks off."""
        return self._texts(self._stream(), 0)

    def batches(self, state: Any = None) -> Iterator[tuple[list[str], Any]]:
        """The texts in batches, each with the state after it as JSON; from a state on, or from the beginning."""
        stream, rows = self._stream(), 0
        if state is not None:
            rows = state["rows"]
            stream.load_state_dict(state["stream"])
        for batch in _in_batches(self._texts(stream, rows)):
            rows += len(batch)
            yield batch, {"rows": rows, "stream": stream.state_dict()}

    def _stream(self) -> Any:
        with _hub_errors(self.option), quiet():
            return self.builder.as_streaming_dataset(split=self.split)

    def _texts(self, stream: Any, number: int) -> Iterator[str]:
        """The texts of the stream, whose first `number` rows have been read."""
        with _hub_errors(self.option):
            for row in stream:
                number += 1
                yield text_of(row, self.field, f"{self.option}, document {number}")

    def identity(self) -> dict[str, Any]:
        """A key of the texts as JSON: the dataset with its owner, config, split, field and commit."""
        config = self.builder.config.name
        return {"hub": self.name, "config": config, "split": self.split, "field": self.field, "revision": self.revision}

    @property
    def revision(self) -> str:
        """The commit. For a dataset in the cache it is the hash under which the cache holds it."""
        return str(self.builder.hash)

    def fingerprint(self) -> str:
        """The commit that was read."""
        return self.revision


def find_source(option: str, source: str) -> FileSource | HubSource:
    """The source that one value of `--data` or `--perplexity` refers to.

    source: a file, a folder, a gen-bios folder or a glob, each with `:FIELD` if the text of a row is not in `text`; or
        a dataset of the hub as ORG/NAME[:CONFIG[:SPLIT[:FIELD]]]. A folder means its visible files at any depth, each
        once, links followed, without those in the formats of `DESCRIPTIONS` and those that are not read.
    No file is read, and the hub is not accessed. Raises RequestError, which begins with `option`, for anything else.
    """
    place, field = source, None
    files = _files(option, place)
    if files is None:
        before, _, last = source.rpartition(":")
        if before and last:
            place, field = before, last
            files = _files(option, place)
    if files is not None:
        readable, unread = files
        if not readable:
            raise RequestError(
                f"{option}: a folder without texts ({unread or 'empty'}); files that are read end in {READ}"
            )
        for file in readable:
            if ending_of(file) not in ENDINGS:
                raise RequestError(
                    f"{option}: {file.name} is not read, as its ending is none of {READ}; give a text the ending .txt"
                )
        if field is not None and not any(map(has_rows, readable)):
            raise RequestError(
                f"{option}: {field!r} is not a field, as .txt files have none; a weight of --data is a number"
            )
        return FileSource(Path(place).expanduser(), tuple(readable), field or FIELD, unread=unread)
    if not HUB_ID.fullmatch(source) or source.startswith("."):
        raise RequestError(f"{option}: no such file or folder")
    if ending_of(Path(source.partition(":")[0])) in ENDINGS:
        raise RequestError(f"{option}: no such file")
    return HubSource(*(source.split(":") + [""] * 3)[:4])


def split_weight(source: str) -> tuple[str, float | None]:
    """A source and the weight after it: the last part if it is a number and no file's name ends in it."""
    before, _, last = source.rpartition(":")
    if before and NUMBER.fullmatch(last) and not Path(source).expanduser().exists():
        return before, float(last)
    return source, None


def _files(option: str, place: str) -> tuple[Sequence[Path], str] | None:
    """The files that `place` means and those that it leaves out, counted; None if there are no files."""
    path = Path(place).expanduser()
    if path.is_dir():
        if is_bios_folder(path):
            return [path / "biographies.parquet"], ""
        try:
            return _texts_of_folder(path)
        except OSError as error:
            raise RequestError(f"{option}: {error.filename} cannot be read: {error.strerror}") from error
    if path.exists():
        return [path], ""
    if glob.has_magic(place):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
        return (matches, "") if matches else None
    return None


def _texts_of_folder(folder: Path) -> tuple[list[Path], str]:
    """The visible files with texts below a folder in order, and the others, counted by ending."""
    texts, unread = [], Counter[str]()
    glob_needed = False
    for file in _visible_files(folder):
        ending = ending_of(file)
        describes = ending in ENDINGS and f".{ending.split('.')[1]}" in DESCRIPTIONS
        glob_needed |= describes
        if ending in ENDINGS and not describes:
            texts.append(file)
        else:
            unread[ending or "without an ending"] += 1
    shown = sorted(unread.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_ENDINGS]
    others = unread.total() - sum(count for _, count in shown)
    counts = ", ".join([f"{count} {ending}" for ending, count in shown] + [f"{others} others"] * (others > 0))
    hint = f"; a glob reads {' and '.join(DESCRIPTIONS)}" if glob_needed else ""
    return texts, f"not read: {counts}{hint}" if unread else ""


def _visible_files(folder: Path) -> list[Path]:
    """The files below a folder in order, each once, links followed, names that begin with a dot left out.

    Links are followed after everything else, so a file that is here by itself keeps its own path.
    """
    files, seen = [], set()
    todo, links = [folder], list[Path]()
    while todo or links:
        path = todo.pop() if todo else links.pop(0)
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        if not path.is_dir():
            files.append(path)
            continue
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                (links if entry.is_symlink() else todo).append(entry)
    return sorted(files)


def _in_batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Texts of about `BATCH_CHARACTERS` together. No text is taken early, so a state after a batch is exact."""
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
    """The sha256 of a file's bytes, as hex; for a large file that of its path, size and modification time."""
    try:
        status = file.stat()
        if status.st_size < HASHED_BYTES:
            return sha256_file(file)
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror or error}") from error
    key = json.dumps([str(file.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(key.encode()).hexdigest()


@contextlib.contextmanager
def _hub_errors(option: str) -> Iterator[None]:
    """Raise the errors of `datasets` as RequestErrors that begin with `option`."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the client it uses

    try:
        yield
    except RequestError:
        raise
    except ConnectionError as error:
        raise RequestError(
            f"{option}: no such file, and as a dataset of the hub it is not in the cache and the hub cannot be "
            "reached; give a file, or go online (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset)"
        ) from error
    except (OSError, ValueError, HTTPError) as error:  # no such dataset, config or split, or access refused
        raise RequestError(f"{option}: {' '.join(str(error).split())}") from error
