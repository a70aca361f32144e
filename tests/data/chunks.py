"""Chunks on disk from documents of token ids, without a tokenizer, and windows over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scale_cli.data.packing import Group
from scale_cli.data.tokens import Chunk

Documents = Sequence[Sequence[int]]


def write_chunk(folder: Path, documents: Documents, *, last: bool = True) -> Chunk:
    """A chunk of these documents in a new folder."""
    folder.mkdir(parents=True)
    tokens = [token for document in documents for token in document]
    np.array(tokens, np.uint16).tofile(folder / "tokens.bin")
    np.array([len(document) for document in documents], np.uint32).tofile(folder / "lengths.bin")
    return Chunk(folder, len(documents), len(tokens), "uint16", empty=0, last=last, state=None)


def group_of(folder: Path, *parts: Documents) -> Group:
    """One group of these chunks, shuffled together, as for files."""
    chunks = [write_chunk(folder / str(number), part) for number, part in enumerate(parts)]
    return lambda number: chunks if number == 0 else None


def groups_of(folder: Path, *parts: Documents) -> Group:
    """One group per chunk, each shuffled separately, as for a stream."""
    chunks = [write_chunk(folder / str(number), part) for number, part in enumerate(parts)]
    return lambda number: [chunks[number]] if number < len(chunks) else None


def random_documents(seed: int, count: int, longest: int = 12, *, vocabulary: int = 1000) -> list[list[int]]:
    """Documents of 1 to `longest` tokens. Only the last token of each is zero."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, longest + 1, count)
    return [[*generator.integers(1, vocabulary, size - 1).tolist(), 0] for size in sizes]


def packed_plainly(documents: Documents, length: int, seed: Sequence[int]) -> list[list[int]]:
    """The windows of one epoch: documents in the seed's random order, end to end, cut, without the remainder."""
    order = np.random.default_rng(seed).permutation(len(documents))
    stream = [token for index in order for token in documents[index]]
    return [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
