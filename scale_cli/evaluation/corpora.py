"""The texts that a model is measured on: `NAME=SOURCE`, with files, folders, globs and data sets of the hub as sources.

A document is a row of a .jsonl or .parquet file or a data set, and the whole of any other file, as `scale train` takes
them. Empty documents are left out.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scale_cli.errors import RequestError
from scale_cli.texts import FIELD, checked_text, read_file
from scale_cli.training.bios import is_bios_folder

SUFFIXES = (".txt", ".jsonl", ".parquet")
"""The files of a folder that hold texts; a file that is named may have any suffix."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^:]*){0,3}")


@dataclass(frozen=True)
class Corpus:
    """Documents to measure on, none of them empty.

    name: what results call them. source: as it was given. limit: the most documents asked for, None for all.
    empty: the documents left out on the way, as they hold nothing.
    """

    name: str
    source: str
    documents: tuple[str, ...]
    limit: int | None = None
    empty: int = 0

    @cached_property
    def sha256(self) -> str:
        """Of the documents' UTF-8 bytes with a zero byte between two, as hex; of a single text file that of the file,
        unless its lines end in more than a newline."""
        digest = hashlib.sha256()
        for number, text in enumerate(self.documents):
            digest.update(b"\0" * (number > 0) + text.encode())
        return digest.hexdigest()


def read_corpora(given: Sequence[str], *, limit: int | None = None) -> list[Corpus]:
    """The corpora of `NAME=SOURCE` words, read.

    SOURCE: a file, a folder (its .txt, .jsonl and .parquet files at any depth, or what gen-bios wrote), a glob, each
        with `:FIELD` behind it where the text of a row is not in `text`; or a data set of the hub, streamed, as
        ORG/NAME[:CONFIG[:SPLIT[:FIELD]]], an empty part for what is usual: the only config, the split "test" or the
        only one, the field "text".
    limit: the first so many documents of each; a data set of the hub needs it.
    Raises RequestError for what is missing, cannot be read, or holds no text.
    """
    if limit is not None and limit < 1:
        raise RequestError(f"--perplexity-documents {limit}: at least 1")
    sources: dict[str, str] = {}
    for words in given:
        name, equals, source = words.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not equals or not source:
            raise RequestError(f"--perplexity {words!r}: write NAME=SOURCE, as in english=test.jsonl")
        if name in sources:
            raise RequestError(f"--perplexity {words}: {name} is already {sources[name]}; names differ")
        sources[name] = source
    return [_read(name, source, limit) for name, source in sources.items()]


def _read(name: str, source: str, limit: int | None) -> Corpus:
    documents: list[str] = []
    empty = 0
    for text in _texts(f"--perplexity {name}={source}", source, limit):
        if text:
            documents.append(text)
        else:
            empty += 1
        if len(documents) == limit:
            break
    if not documents:
        raise RequestError(f"--perplexity {name}={source}: there is no text in it")
    return Corpus(name, source, tuple(documents), limit, empty)


def _texts(option: str, source: str, limit: int | None) -> Iterator[str]:
    """All texts of a source, in order; `option` begins what is said of a source that is none."""
    files, field = _files(source), FIELD
    if files is None:
        place, _, field = source.rpartition(":")
        files = _files(place) if place and field else None
    if files is not None:
        if not files:
            raise RequestError(f"{option}: a folder without {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} files")
        return itertools.chain.from_iterable(read_file(file, field) for file in files)
    if not HUB_ID.fullmatch(source) or source.startswith("."):
        raise RequestError(f"{option}: no such file or folder")
    if source.partition(":")[0].endswith(SUFFIXES):
        raise RequestError(f"{option}: no such file")
    if limit is None:
        raise RequestError(
            f"{option}: no such file, and of a data set of the hub say how many documents: --perplexity-documents N"
        )
    return _hub_texts(option, source)


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


def _hub_texts(option: str, source: str) -> Iterator[str]:
    """The texts of a data set of the hub, streamed, or read from the cache where the hub cannot be reached."""
    import datasets
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the client it uses

    name, config, split, field = (source.split(":") + [""] * 3)[:4]
    field = field or FIELD
    try:
        found = datasets.load_dataset(name, config or None, split=split or None, streaming=True)
        if not split:
            wanted = "test" if "test" in found else next(iter(found))
            if wanted != "test" and len(found) > 1:
                raise RequestError(f"{option}: name a split, {name}:{config}:SPLIT, of {', '.join(found)}")
            found = found[wanted]
        for number, row in enumerate(found, 1):
            if field not in row:
                raise RequestError(f"{option}: it has no field `{field}`; it has {', '.join(row)}")
            yield checked_text(row[field], field, f"{option}, document {number}")
    except RequestError:
        raise
    except ConnectionError as error:
        raise RequestError(
            f"{option}: no such file, and as a data set of the hub it is not in the cache and the hub cannot be "
            "reached; give a file, or go online (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset)"
        ) from error
    except (OSError, ValueError, HTTPError) as error:  # no such data set, config or split, or refused
        raise RequestError(f"{option}: {' '.join(str(error).split())}") from error
