"""Texts before a training: their sizes, tokens, shares and epochs, how they are packed, and repeated documents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from scale_cli.core.errors import RequestError
from scale_cli.core.files import plain, shortest_ends
from scale_cli.data.corpora import parse_corpora
from scale_cli.data.doubts import also_trained, repeated_often
from scale_cli.data.examples import DEFAULT_LENGTH, begin_of_text, end_of_text, resolve_data
from scale_cli.data.options import DataOptions
from scale_cli.data.sources import FileSource, HubSource, HubTexts, find_source, split_weight
from scale_cli.data.tokens import tokenise

Role = Literal["data", "held out"]
Advance = Callable[..., None]
DIGEST_BYTES = 16
TOGETHER = "together"
"""The name of all sources as one part of the mix."""


@dataclass(frozen=True)
class Sample:
    """A document. number: its position in the source, from 1, empty documents counted."""

    number: int
    text: str


@dataclass(frozen=True)
class TokenStatistics:
    """Tokens of one source.

    text: without special tokens. total: with end-of-text, and begin-of-text if requested, as a training reads them.
    median, longest: of a document, as a training reads it. longer: number of documents that are longer than a sequence.
    continued: tokens of these beyond the first sequence.
    """

    text: int
    total: int
    median: float
    longest: int
    longer: int
    continued: int


@dataclass(frozen=True)
class TextStatistics:
    """The statistics of one source. Empty documents count in `empty` alone.

    name: a short name. source: as it was given. role: whether it is trained on or held out. complete: whether it was
        read to its end.
    bytes: of UTF-8. words: runs of characters without whitespace.
    repeated: number of documents that repeat an earlier one of the source, up to whitespace.
    tokens: None without a tokenizer.
    """

    name: str
    source: str
    role: Role
    complete: bool
    documents: int
    empty: int
    bytes: int
    words: int
    repeated: int
    tokens: TokenStatistics | None
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Part:
    """One source in the mix of a training, or all of them as `TOGETHER`.

    share: of the tokens. sequences: number in an epoch. dropped_tokens: left over after them, others in each epoch.
    Both None for one of several sources without weights, which are cut into sequences together.
    epochs: how often the training reads it; None without a number of tokens.
    """

    name: str
    share: float
    sequences: int | None
    dropped_tokens: int | None
    epochs: float | None


@dataclass(frozen=True)
class Overlap:
    """Two sources with equal documents, up to whitespace: how many of each are in the other."""

    first: str
    second: str
    of_first: int
    of_second: int


@dataclass(frozen=True)
class DataReport:
    """The statistics of all sources.

    length: tokens per sequence. run_tokens: tokens of the training. Both None if they were not given.
    mix: empty without a tokenizer, or if a source was not read to its end.
    """

    length: int | None
    run_tokens: int | None
    texts: tuple[TextStatistics, ...]
    mix: tuple[Part, ...]
    overlaps: tuple[Overlap, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per source: the fields of `TextStatistics`, those of its tokens as `tokens_total` and the like, and
        tokens per byte and per word."""
        frame = pd.json_normalize([plain(text) for text in self.texts], sep="_").drop(columns="samples")
        if self.length is not None:
            frame["tokens_per_byte"] = frame["tokens_text"] / frame["bytes"]
            frame["tokens_per_word"] = frame["tokens_text"] / frame["words"].replace(0, np.nan)
        return frame

    @property
    def warnings(self) -> list[str]:
        """What makes a training or a measurement on these texts doubtful, a line each."""
        by_name = {text.name: text for text in self.texts}
        lines = []
        for overlap in self.overlaps:
            first, second = by_name[overlap.first], by_name[overlap.second]
            if first.role != second.role:
                counts = {"shared": overlap.of_second, "documents": second.documents}
                lines.append(also_trained(second.name, **counts, trained=first.name))
        for part in self.mix:
            if part.name != TOGETHER and (line := repeated_often(part.name, part.epochs)):
                lines.append(line)
            if part.sequences == 0:
                lines.append(f"{part.name} has less than one sequence of {self.length} tokens; scale train refuses it")
        return lines


def describe_data(
    recipe: DataOptions,
    *,
    tokenizer: Any = None,
    default_length: int = DEFAULT_LENGTH,
    run_tokens: int | None = None,
    held_out: Sequence[str] = (),
    limit: int | None = None,
    held_out_limit: int | None = None,
    samples: int = 0,
    progress: Callable[[str, None], AbstractContextManager[Advance]],
    say: Callable[[str], None] = lambda line: None,
) -> DataReport:
    """The statistics of a training's data and of held-out texts.

    recipe: its data, people, bos, sequence length and seed are used.
    tokenizer: None for statistics without tokens. default_length: tokens per sequence if the recipe has none.
    run_tokens: tokens of the training, for epochs; None if unknown. held_out: NAME=SOURCE, as of `read_corpora`.
    limit, held_out_limit: greatest number of documents of each source and held-out text; required for the hub's.
    samples: number of documents of each source that are drawn by the recipe's seed.
    progress: displays the documents of each source. say: called with a line about the files of a folder not read.
    Raises RequestError for sources that do not exist, cannot be read or hold no text.
    """
    for option, value in (("--documents", limit), ("--eval-documents", held_out_limit)):
        if value is not None and value < 1:
            raise RequestError(f"{option} {value}: at least 1")
    if samples < 0:
        raise RequestError(f"--samples {samples}: at least 0")
    given = resolve_data(recipe)
    held = parse_corpora(held_out, option="--eval-text")
    texts = [(item.source, split_weight(item.text)[0]) for item in given]
    names = short_names([Path(name).parts if isinstance(source, FileSource) else (name,) for source, name in texts])
    opened = [
        _Source(name, item.text, "data", _open(item.option, item.source, "train", limit, "--documents"), limit)
        for name, item in zip(names, given, strict=True)
    ]
    for name, source in held.items():
        option = f"--eval-text {name}={source}"
        found = _open(option, find_source(option, source), "test", held_out_limit, "--eval-documents")
        opened.append(_Source(f"{name} (held out)", source, "held out", found, held_out_limit))
    for each in opened:
        if isinstance(each.texts, FileSource) and each.texts.unread:
            say(f"{each.given}: {each.texts.unread}")
    length = None if tokenizer is None else recipe.seq_length or default_length
    around = 0 if tokenizer is None else _ends(tokenizer, recipe)
    described, keys = [], []
    for each in opened:
        with progress(f"documents of {each.name}", None) as advance:
            text, own_keys = _read(each, tokenizer, length, around, samples, recipe.seed, advance)
        described.append(text)
        keys.append(own_keys)
    data = [text for text in described if text.role == "data"]
    weights = [item.weight for item in given if item.weight is not None]
    is_known = length is not None and all(text.complete for text in data)
    mix = _mix(data, weights, length, run_tokens) if length is not None and is_known else ()
    return DataReport(length, run_tokens, tuple(described), tuple(mix), tuple(_overlaps(described, keys)))


@dataclass(frozen=True)
class _Source:
    name: str
    given: str
    role: Role
    texts: FileSource | HubTexts
    limit: int | None


def short_names(sources: Sequence[Sequence[str]]) -> list[str]:
    """The shortest ends of the sources' paths that tell them apart, numbered if two are equal.

    sources: the parts of each path; a dataset of the hub is one part.
    """
    return shortest_ends(sources, "/") or [f"{Path(*parts)} ({number})" for number, parts in enumerate(sources, 1)]


def _open(
    option: str, source: FileSource | HubSource, split: str, limit: int | None, limit_option: str
) -> FileSource | HubTexts:
    if isinstance(source, FileSource):
        return source
    if limit is None:
        raise RequestError(
            f"{option}: no such file; for a dataset of the hub give the number of documents: {limit_option} N"
        )
    return source.open(option, split)


def _ends(tokenizer: Any, recipe: DataOptions) -> int:
    """The number of special tokens that a training adds to each text."""
    end_of_text(tokenizer)
    if recipe.bos:
        begin_of_text(tokenizer)
    return 1 + recipe.bos


def _read(
    source: _Source,
    tokenizer: Any,
    length: int | None,
    around: int,
    samples: int,
    seed: int,
    advance: Advance,
) -> tuple[TextStatistics, np.ndarray]:
    """The statistics of a source, and a key of each document's text without differences in whitespace."""
    empty = size_bytes = words = 0
    lengths: list[np.ndarray] = []
    digests = bytearray()
    drawn = _Sampler(samples, seed)
    for batch in _batches(source):
        ids = batch if tokenizer is None else tokenise(batch, tokenizer)
        sizes = np.array([len(part) for part in ids], np.int64)
        for text, size in zip(batch, sizes, strict=True):
            drawn.add(text, is_empty=not size)
            if size:
                found = text.split()
                words += len(found)
                size_bytes += len(text.encode())
                digests += hashlib.blake2b(" ".join(found).encode(), digest_size=DIGEST_BYTES).digest()
        empty += int((sizes == 0).sum())
        lengths.append(sizes[sizes > 0] + around)
        advance(len(batch))
    if not digests:
        raise RequestError(f"{source.given}: there is no text in it")
    keys = np.frombuffer(bytes(digests), dtype=f"V{DIGEST_BYTES}")
    statistics = TextStatistics(
        name=source.name,
        source=source.given,
        role=source.role,
        complete=source.limit is None or len(keys) < source.limit,
        documents=len(keys),
        empty=empty,
        bytes=size_bytes,
        words=words,
        repeated=len(keys) - len(np.unique(keys)),
        tokens=None if length is None else _tokens(np.concatenate(lengths), around, length),
        samples=drawn.samples,
    )
    return statistics, keys


def _tokens(lengths: np.ndarray, around: int, length: int) -> TokenStatistics:
    """lengths: of the documents, with `around` special tokens each. length: of a sequence."""
    over = lengths[lengths > length]
    return TokenStatistics(
        text=int(lengths.sum()) - around * len(lengths),
        total=int(lengths.sum()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        longer=len(over),
        continued=int((over - length).sum()),
    )


def _batches(source: _Source) -> Iterator[list[str]]:
    """The texts in batches, up to the limit of documents that are not empty."""
    left = source.limit
    for batch, _ in source.texts.batches():
        if left is not None:
            filled = [number for number, text in enumerate(batch, 1) if text]
            if len(filled) >= left:
                yield batch[: filled[left - 1]]
                return
            left -= len(filled)
        yield batch


class _Sampler:
    """Documents drawn with equal probability from a stream of unknown length (reservoir sampling)."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._random = count, random.Random(seed)
        self._drawn: list[Sample] = []
        self._number = self._filled = 0

    def add(self, text: str, *, is_empty: bool) -> None:
        self._number += 1
        if is_empty or not self._count:
            return
        self._filled += 1
        if len(self._drawn) < self._count:
            self._drawn.append(Sample(self._number, text))
        elif (place := self._random.randrange(self._filled)) < self._count:
            self._drawn[place] = Sample(self._number, text)

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(sorted(self._drawn, key=lambda sample: sample.number))


def _mix(
    data: Sequence[TextStatistics], weights: Sequence[float], length: int, run_tokens: int | None
) -> Iterator[Part]:
    """The parts of the mix, as `load_examples` lays them out."""
    sizes = [0 if text.tokens is None else text.tokens.total for text in data]
    total = sum(sizes)

    def epochs(share: float, size: int) -> float | None:
        """A remainder that is less than a sequence is read in none."""
        return None if run_tokens is None or size < length else share * run_tokens / (size // length * length)

    if weights:
        for text, size, weight in zip(data, sizes, weights, strict=True):
            share = weight / sum(weights)
            yield Part(text.name, share, size // length, size % length, epochs(share, size))
        return
    if len(data) > 1:
        for text, size in zip(data, sizes, strict=True):
            yield Part(text.name, size / total, None, None, epochs(1, total))
    yield Part(data[0].name if len(data) == 1 else TOGETHER, 1.0, total // length, total % length, epochs(1, total))


def _overlaps(texts: Sequence[TextStatistics], keys: Sequence[np.ndarray]) -> Iterator[Overlap]:
    """The pairs of sources that have equal documents."""
    numbers = np.split(pd.factorize(np.concatenate(keys))[0], np.cumsum([len(own) for own in keys])[:-1])
    for (first, own), (second, other) in combinations(zip(texts, numbers, strict=True), 2):
        if of_first := int(np.isin(own, other).sum()):
            yield Overlap(first.name, second.name, of_first, int(np.isin(other, own).sum()))
