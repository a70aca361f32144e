"""Tokenising and packing texts, against the tokenizers library alone."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks.command import Result
from benchmarks.speed import frame
from benchmarks.speed.frame import Target, interleave, over_first
from scale_cli.bench.tokenizer import train_tokenizer
from scale_cli.data.examples import PackedTexts
from scale_cli.data.packing import Windows
from scale_cli.data.sources import FileSource, find_source
from scale_cli.data.tokens import TokenCache

LIBRARY, CACHE, WINDOWS = "library", "cache", "windows"
VOCABULARY, TRAINED_ON = 8192, 10_000
"""Largest vocabulary of the tokenizer, and the number of texts that it is trained on."""
LIMIT = 1.15
"""The largest ratio to the library's time that is a target."""
LENGTH, ROWS = 512, 64
"""Tokens per window, and windows gathered per call."""


class Corpus:
    """Biographies in a folder, a tokenizer trained on them, and the three works that are timed."""

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
        """Encode all texts by the library's own batch encoder. Returns the number of tokens."""
        backend: Any = self.tokenizer.backend_tokenizer
        encoded = (backend.encode_batch_fast(batch, add_special_tokens=False) for batch in self.texts)
        return sum(sum(map(len, batch)) for batch in encoded)

    def make_cache(self) -> int:
        """Write all chunks of a new cache. Returns the number of tokens, the end of each text included."""
        self.cache = self._new_cache()
        return sum(chunk.tokens for chunk in self.cache.chunks())

    def gather(self) -> int:
        """Gather every window of an epoch in its order. Returns the number of tokens."""
        chunks = self.cache.chunks()
        windows = Windows("texts", lambda number: chunks if number == 0 else None, LENGTH, (0, 0))
        count = sum(chunk.tokens for chunk in chunks) // LENGTH
        packed = PackedTexts([windows], LENGTH, count)
        batches = (np.arange(first, min(first + ROWS, count)) for first in range(0, count, ROWS))
        return sum(packed.batch(batch)["input_ids"].size for batch in batches)


def measure(folder: Path, *, people: int, repetitions: int, warmup: int, threads: int) -> pd.DataFrame:
    """One row per work: the library's encoding, writing the cache of tokens, gathering all windows from it.

    folder: a new one. tokens: produced by one repetition. wall_ratio, cpu_ratio: to the library's seconds.
    """
    corpus = Corpus(folder, people=people, workers=threads)
    works = {LIBRARY: corpus.encode, CACHE: corpus.make_cache, WINDOWS: corpus.gather}
    tokens = [work() for work in works.values()]
    lines = interleave(works, "work", repetitions=repetitions, warmup=warmup)
    lines["tokens"] = tokens
    lines["tokens_per_second"] = lines.tokens / lines.wall_seconds
    lines["wall_ratio"] = over_first(lines.wall_seconds)
    lines["cpu_ratio"] = over_first(lines.cpu_seconds)
    return lines


def main(
    people: Annotated[int, typer.Option(min=1, help="People with five biographies each.")] = 10_000,
    repetitions: frame.Repetitions = 5,
    threads: frame.Threads = frame.CORES,
) -> Result:
    """Time tokenising and packing a corpus, against the tokenizers library alone.

    Every repetition encodes the same biographies by the library's batch encoder and then as `scale train --data` does:
    read the files, tokenise, close every text, write the cache of tokens, and gather every window of an epoch in its
    shuffled order. Printed are medians: tokens per second (wall) and the ratios of wall and CPU seconds to the
    library's. The tokenizer is a byte-level BPE trained on some of the texts.
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read by the tokenizers library when it first encodes
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(Path(folder), people=people, repetitions=repetitions, warmup=1, threads=threads)
    columns = "work tokens tokens_per_second spread wall_ratio cpu_ratio"
    headings = {"wall_ratio": "/ library", "cpu_ratio": "CPU"}
    ratios = lines.set_index("work").wall_ratio
    targets = [
        Target("making the cache of tokens / the library's encoding", ratios[CACHE], LIMIT).record,
        Target("gathering windows / the library's encoding", ratios[WINDOWS], LIMIT).record,
    ]
    return Result(
        [frame.table(lines, columns, title=f"Tokenising {people:,} people, {threads} threads", headings=headings)],
        {"threads": threads, "repetitions": repetitions, "targets": targets, "lines": frame.rows(lines)},
    )
