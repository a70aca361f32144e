"""Windows of tokens: shuffled documents, laid end to end and cut, from one source or mixed from several."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scale_cli.core.errors import RequestError
from scale_cli.data.tokens import Chunk

Group = Callable[[int], Sequence[Chunk] | None]
"""Returns the chunks that are shuffled together, by the group's number; None after the last group."""


class Shuffled:
    """The documents of a group in random order, end to end, cut into windows; the remainder is left out.

    Nothing is copied: a window is gathered from the files when it is requested.
    """

    def __init__(self, chunks: Sequence[Chunk], length: int, generator: np.random.Generator) -> None:
        parts = [chunk.load() for chunk in chunks if chunk.tokens]
        self.length = length
        self.tokens = [tokens for tokens, _ in parts]
        self.ends = np.cumsum([len(tokens) for tokens in self.tokens])
        lengths = np.concatenate([lengths for _, lengths in parts])
        order = generator.permutation(len(lengths))
        starts = (np.cumsum(lengths) - lengths)[order]
        lengths = lengths[order]
        self.begins = np.cumsum(lengths) - lengths
        """The position of each document in the shuffled order. Adding `shifts` gives its position in the chunks."""
        self.shifts = starts - self.begins

    def windows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows of these numbers: tokens, and the position of each in its document or the document's part here.

        rows: (n,). Returns two arrays (n, length).
        """
        first = rows[:, None] * self.length
        positions = first + np.arange(self.length)
        documents = np.searchsorted(self.begins, positions, side="right") - 1
        tokens = self._gather(positions + self.shifts[documents])
        return tokens, positions - np.maximum(self.begins[documents], first)

    def borders(self, rows: int) -> int:
        """The number of documents that begin inside one of the first `rows` windows, not at its beginning."""
        inside = self.begins[: np.searchsorted(self.begins, rows * self.length)]
        return int((inside % self.length != 0).sum())

    def _gather(self, positions: np.ndarray) -> np.ndarray:
        if len(self.tokens) == 1:
            return self.tokens[0][positions]
        parts = np.searchsorted(self.ends, positions, side="right")
        tokens = np.empty(positions.shape, np.uint32)
        for part in np.unique(parts):
            inside = parts == part
            tokens[inside] = self.tokens[part][positions[inside] - (self.ends[part] - len(self.tokens[part]))]
        return tokens


class Windows:
    """The windows of one source over all epochs: window i is a function of the seed and i.

    An epoch is the sequence of groups, each shuffled separately. A group's number of windows is computed when a window
    after it is requested, so a stream is read no further than needed.
    """

    def __init__(self, name: str, group: Group, length: int, seed: Sequence[int], *, groups: int | None = None) -> None:
        """name: the beginning of errors. seed: the run's seed and the source's number.

        groups: number of groups of an epoch, None if it is known only when the last one has been read.
        """
        self.name = name
        self.groups = groups
        self.group = group
        self.length = length
        self.seed = tuple(seed)
        self._ends: list[int] = []  # windows up to the end of each known group
        self._tokens = 0
        self.empty = 0
        """The number of texts in the known groups that were left out because they have no token."""
        self._whole = False  # whether all groups of an epoch are known
        self._last: tuple[tuple[int, int], Shuffled] | None = None

    def locate(self, index: int) -> tuple[int, int, int]:
        """Epoch, group and row of a window. Raises RequestError if the source has less than one window."""
        while not self._whole and (not self._ends or index >= self._ends[-1]):
            self._count_next_group()
        epoch, index = divmod(index, self._ends[-1]) if self._whole else (0, index)
        group = bisect_right(self._ends, index)
        return epoch, group, index - (self._ends[group - 1] if group else 0)

    def windows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows of these numbers, as `Shuffled.windows` returns them."""
        located = np.array([self.locate(int(index)) for index in indices])
        tokens = np.empty((len(indices), self.length), np.int64)
        positions = np.empty_like(tokens)
        for epoch, group in np.unique(located[:, :2], axis=0):
            rows = (located[:, 0] == epoch) & (located[:, 1] == group)
            tokens[rows], positions[rows] = self._shuffled(int(epoch), int(group)).windows(located[rows, 2])
        return tokens, positions

    @property
    def per_epoch(self) -> int | None:
        """The number of windows of an epoch; None until all groups are known. Raises as `locate`."""
        self.locate(0)
        return self._ends[-1] if self._whole or len(self._ends) == self.groups else None

    def known_chunks(self) -> Iterator[Chunk]:
        """The chunks of the known groups."""
        for number in range(len(self._ends)):
            yield from self.group(number) or ()

    def borders(self, count: int) -> int:
        """The number of documents that begin inside one of the first `count` windows, not at its beginning."""
        return sum(self._shuffled(epoch, group).borders(rows) for epoch, group, rows in self._groups(count))

    def epochs(self, count: int) -> float | None:
        """The number of epochs in the first `count` windows; None if the end of the first one was not reached."""
        return None if self.per_epoch is None else count / self.per_epoch

    def _groups(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Epoch, group and number of windows, for each group that holds some of the first `count` windows."""
        done = 0
        while done < count:
            epoch, group, _ = self.locate(done)
            size = self._ends[group] - (self._ends[group - 1] if group else 0)
            rows = min(size, count - done)
            yield epoch, group, rows
            done += rows

    def _count_next_group(self) -> None:
        chunks = self.group(len(self._ends))
        if chunks is None:
            self._whole = True
            if not self._tokens:
                raise RequestError(f"{self.name}: there is no text in it")
            if not self._ends[-1]:
                raise RequestError(
                    f"--seq-length {self.length}: {self.name} has {self._tokens} tokens, less than one sequence"
                )
            return
        tokens = sum(chunk.tokens for chunk in chunks)
        self._tokens += tokens
        self.empty += sum(chunk.empty for chunk in chunks)
        self._ends.append((self._ends[-1] if self._ends else 0) + tokens // self.length)

    def _shuffled(self, epoch: int, group: int) -> Shuffled:
        if self._last is None or self._last[0] != (epoch, group):
            chunks = self.group(group)
            assert chunks is not None
            # Zeros at the end do not change a seed: a first source of one group is shuffled by seed and epoch alone.
            generator = np.random.default_rng([self.seed[0], epoch, *self.seed[1:], group])
            self._last = ((epoch, group), Shuffled(chunks, self.length, generator))
        return self._last[1]


def interleave(weights: Sequence[float], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The source of each of `count` windows, and its number in that source; two arrays (count,).

    Window k of a source with the share w is due at (k + 1/2) / w, and windows come in the order in which they are due.
    So every prefix contains the sources in their shares, as evenly as possible, and a longer run begins like a shorter
    one. `datasets.interleave_datasets` does neither: its shares are of documents, whatever their lengths, and its order
    is a generator's state, not a function of the index.
    """
    shares = np.asarray(weights) / np.sum(weights)
    counts = np.ceil(shares * (count + len(shares))).astype(np.int64) + 1
    sources = np.repeat(np.arange(len(counts), dtype=np.min_scalar_type(len(counts))), counts)
    numbers = np.concatenate([np.arange(size) for size in counts])
    order = np.lexsort((sources, (numbers + 0.5) / shares[sources]))[:count]
    return sources[order], numbers[order]
