"""Tokenising and packing a corpus against the tokenizers library alone: `python -m benchmarks.speed tokenise`.

Every repetition puts the same biographies through the library's own batch encoder, all that it offers, and then through
what `scale train --data` does: read the files, tokenise, close every text, write the cache of tokens, and gather every
window of an epoch in its drawn order. Of each the medians: tokens a second of the wall's clock and of the processor's
seconds, and the ratio to the library's by both. The tokenizer is a byte-level BPE trained on some of the texts.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.speed import common
from benchmarks.speed.common import Target, interleave
from scale_cli.bench.bios import train_tokenizer
from scale_cli.data.examples import PackedTexts
from scale_cli.data.packing import Windows
from scale_cli.data.sources import FileSource, find_source
from scale_cli.data.tokens import TokenCache

LIBRARY, CACHE, WINDOWS = "library", "cache", "windows"
VOCABULARY, TRAINED_ON = 8192, 10_000
"""Tokens of the tokenizer at most, and the texts that it is trained on."""
LIMIT = 1.15
"""Of the time that the library itself takes."""
LENGTH, ROWS = 512, 64
"""Tokens of a window, and the windows gathered at a time."""


@dataclass(frozen=True)
class Line:
    """What one piece of work took: medians over repetitions.

    work: the library's encoding, making the cache of tokens, or gathering all windows from it. tokens: that it makes.
    spread: half the distance of the quartiles over the median, of the processor's seconds.
    """

    work: str
    tokens: int
    wall_seconds: float
    cpu_seconds: float
    spread: float
    wall_ratio: float
    cpu_ratio: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_seconds


class Corpus:
    """Biographies in a folder, a tokenizer of them, and the pieces of work."""

    def __init__(self, folder: Path, *, people: int, workers: int) -> None:
        from transformers import PreTrainedTokenizerFast

        import data_gen

        data_gen.generate(folder / "bios", people=people, workers=workers)
        source = find_source("--data", str(folder / "bios"))
        assert isinstance(source, FileSource)
        self.source = source
        self.folder = folder
        trained = train_tokenizer(list(itertools.islice(source.texts(), TRAINED_ON)), "bpe", VOCABULARY)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained)
        self.texts = [batch for batch, _ in source.batches()]
        self.caches = 0
        self.cache = self._new_cache()

    def _new_cache(self) -> TokenCache:
        self.caches += 1
        return TokenCache(self.source, self.tokenizer, 0, self.folder / f"tokens-{self.caches}")

    def encode(self) -> int:
        """The library's own batches of texts, each as it comes; the tokens."""
        backend: Any = self.tokenizer.backend_tokenizer
        encoded = (backend.encode_batch_fast(batch, add_special_tokens=False) for batch in self.texts)
        return sum(sum(map(len, batch)) for batch in encoded)

    def make_cache(self) -> int:
        """All chunks of a new cache; the tokens, ends of texts included."""
        self.cache = self._new_cache()
        return sum(chunk.tokens for chunk in self.cache.chunks())

    def gather(self) -> int:
        """Every window of an epoch; the tokens."""
        chunks = self.cache.chunks()
        windows = Windows("texts", lambda number: chunks if number == 0 else None, LENGTH, (0, 0))
        total = sum(chunk.tokens for chunk in chunks) // LENGTH
        packed = PackedTexts([windows], LENGTH, total)
        return sum(batch["input_ids"].size for batch in _batches(packed, total))


def _batches(packed: PackedTexts, total: int) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, total, ROWS):
        yield packed.batch(np.arange(first, min(first + ROWS, total)))


def measure(folder: Path, *, people: int, repetitions: int, warmup: int, threads: int) -> list[Line]:
    """A line for each piece of work. folder: a new one."""
    corpus = Corpus(folder, people=people, workers=threads)
    works = {LIBRARY: corpus.encode, CACHE: corpus.make_cache, WINDOWS: corpus.gather}
    tokens = {name: work() for name, work in works.items()}
    clocks = interleave(works, repetitions=repetitions, warmup=warmup)
    library = clocks[LIBRARY]
    return [
        Line(
            work=name,
            tokens=tokens[name],
            wall_seconds=clock.wall_seconds,
            cpu_seconds=clock.cpu_seconds,
            spread=clock.spread,
            wall_ratio=clock.wall_seconds / library.wall_seconds,
            cpu_ratio=clock.cpu_seconds / library.cpu_seconds,
        )
        for name, clock in clocks.items()
    ]


def speed_table(lines: list[Line], *, title: str) -> Table:
    """The lines for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left")
    table.add_column("work", no_wrap=True)
    for heading in ("tokens", "tokens/s", "spread", "/ library", "CPU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        numbers = (line.spread, line.wall_ratio, line.cpu_ratio)
        table.add_row(
            line.work, f"{line.tokens:,}", f"{line.tokens_per_second:,.0f}", *(f"{number:.3f}" for number in numbers)
        )
    return table


def main(words: list[str]) -> None:
    """The command line of this measurement."""
    parser = common.parser("tokenise", __doc__, repetitions=5)
    parser.add_argument("--people", type=common.positive, default=10_000, help="five biographies each")
    arguments = parser.parse_args(words)
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)  # of the tokenizers library, before it begins
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(
            Path(folder),
            people=arguments.people,
            repetitions=arguments.repetitions,
            warmup=1,
            threads=arguments.threads,
        )
    Console().print(speed_table(lines, title=f"Tokenising {arguments.people:,} people, {arguments.threads} threads"))
    of = {line.work: line for line in lines}
    common.write_speed_record(
        arguments.out,
        "tokenise",
        words,
        targets=[
            Target("making the cache of tokens / the library's encoding", of[CACHE].wall_ratio, LIMIT),
            Target("gathering windows / the library's encoding", of[WINDOWS].wall_ratio, LIMIT),
        ],
        threads=arguments.threads,
        repetitions=arguments.repetitions,
        lines=[vars(line) | {"tokens_per_second": line.tokens_per_second} for line in lines],
    )
