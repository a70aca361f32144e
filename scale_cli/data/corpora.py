"""The texts that a model is measured on: `NAME=SOURCE`, with the sources that `scale train --data` reads.

Empty documents are left out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from scale_cli.core.errors import RequestError
from scale_cli.data.sources import FileSource, find_source


@dataclass(frozen=True)
class Corpus:
    """Documents to measure on, none of them empty.

    name: the name in results. source: as it was given. limit: the greatest number of documents, None for all.
    empty: the number of empty documents that were left out.
    """

    name: str
    source: str
    documents: tuple[str, ...]
    limit: int | None = None
    empty: int = 0

    @cached_property
    def sha256(self) -> str:
        """The hash, as hex, of the documents' UTF-8 bytes with a zero byte between two.

        For a single .txt file this is the hash of the file, unless its lines end in more than a newline or it begins
        with a byte-order mark.
        """
        digest = hashlib.sha256()
        for number, text in enumerate(self.documents):
            digest.update(b"\0" * (number > 0) + text.encode())
        return digest.hexdigest()


def parse_corpora(given: Sequence[str], *, option: str = "--perplexity") -> dict[str, str]:
    """The sources by name in `NAME=SOURCE` values. Raises RequestError for another form and for a repeated name."""
    sources: dict[str, str] = {}
    for value in given:
        name, equals, source = value.partition("=")
        if not re.fullmatch(r"[\w.-]+", name) or not equals or not source:
            raise RequestError(f"{option} {value!r}: write NAME=SOURCE, as in english=test.jsonl")
        if name in sources:
            raise RequestError(f"{option} {value}: {name} is already {sources[name]}; choose another name")
        sources[name] = source
    return sources


def read_corpora(
    given: Sequence[str],
    *,
    limit: int | None = None,
    option: str = "--perplexity",
    limit_option: str = "--perplexity-documents",
    say: Callable[[str], None] = lambda line: None,
) -> list[Corpus]:
    """The corpora of `NAME=SOURCE` values, read.

    SOURCE: as `find_source` takes it. A dataset of the hub is streamed from its split "test", or its only split.
    limit: the greatest number of documents per corpus; a dataset of the hub needs it.
    option, limit_option: the options' names in messages.
    say: called with a line about the files of a folder that are not read.
    Raises RequestError for a source that does not exist, cannot be read, or holds no text.
    """
    if limit is not None and limit < 1:
        raise RequestError(f"{limit_option} {limit}: at least 1")
    sources = parse_corpora(given, option=option)
    return [
        _read(name, source, limit, f"{option} {name}={source}", limit_option, say) for name, source in sources.items()
    ]


def _read(
    name: str, source: str, limit: int | None, option: str, limit_option: str, say: Callable[[str], None]
) -> Corpus:
    documents: list[str] = []
    empty = 0
    for text in _texts(option, source, limit, limit_option, say):
        if text:
            documents.append(text)
        else:
            empty += 1
        if len(documents) == limit:
            break
    if not documents:
        raise RequestError(f"{option}: there is no text in it")
    return Corpus(name, source, tuple(documents), limit, empty)


def _texts(option: str, source: str, limit: int | None, limit_option: str, say: Callable[[str], None]) -> Iterator[str]:
    """All texts of a source, in order. option: the beginning of messages."""
    opened = find_source(option, source)
    if isinstance(opened, FileSource):
        if opened.unread:
            say(f"{option}: {opened.unread}")
        return opened.texts()
    if limit is None:
        raise RequestError(
            f"{option}: no such file; for a dataset of the hub give the number of documents: {limit_option} N"
        )
    return opened.open(option, "test").texts()
