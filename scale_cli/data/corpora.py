"""The texts that a model is measured on: `NAME=SOURCE`, with files, folders, globs and data sets of the hub as sources.

A document is a row of a .jsonl or .parquet file or a data set, and the whole of any other file, as `scale train` takes
them. Empty documents are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from scale_cli.core.errors import RequestError
from scale_cli.data.sources import FileSource, find_source


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


def parse_corpora(given: Sequence[str], *, option: str = "--perplexity") -> dict[str, str]:
    """The sources by name in `NAME=SOURCE` words. Raises RequestError for what is none, and for a name that has two."""
    sources: dict[str, str] = {}
    for words in given:
        name, equals, source = words.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not equals or not source:
            raise RequestError(f"{option} {words!r}: write NAME=SOURCE, as in english=test.jsonl")
        if name in sources:
            raise RequestError(f"{option} {words}: {name} is already {sources[name]}; names differ")
        sources[name] = source
    return sources


def read_corpora(
    given: Sequence[str],
    *,
    limit: int | None = None,
    option: str = "--perplexity",
    limit_option: str = "--perplexity-documents",
) -> list[Corpus]:
    """The corpora of `NAME=SOURCE` words, read.

    SOURCE: a file, a folder (its .txt, .jsonl and .parquet files at any depth, or what gen-bios wrote), a glob, each
        with `:FIELD` behind it where the text of a row is not in `text`; or a data set of the hub, streamed, as
        ORG/NAME[:CONFIG[:SPLIT[:FIELD]]], an empty part for what is usual: the only config, the split "test" or the
        only one, the field "text".
    limit: the first so many documents of each; a data set of the hub needs it.
    option, limit_option: what a message calls what was given.
    Raises RequestError for what is missing, cannot be read, or holds no text.
    """
    if limit is not None and limit < 1:
        raise RequestError(f"{limit_option} {limit}: at least 1")
    sources = parse_corpora(given, option=option)
    return [_read(name, source, limit, f"{option} {name}={source}", limit_option) for name, source in sources.items()]


def _read(name: str, source: str, limit: int | None, option: str, limit_option: str) -> Corpus:
    documents: list[str] = []
    empty = 0
    for text in _texts(option, source, limit, limit_option):
        if text:
            documents.append(text)
        else:
            empty += 1
        if len(documents) == limit:
            break
    if not documents:
        raise RequestError(f"{option}: there is no text in it")
    return Corpus(name, source, tuple(documents), limit, empty)


def _texts(option: str, source: str, limit: int | None, limit_option: str) -> Iterator[str]:
    """All texts of a source, in order; `option` begins what is said of a source that is none."""
    found = find_source(option, source)
    if isinstance(found, FileSource):
        return found.texts()
    if limit is None:
        raise RequestError(
            f"{option}: no such file, and of a data set of the hub say how many documents: {limit_option} N"
        )
    return found.open(option, "test").texts()
