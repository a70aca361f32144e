"""Windows of tokens: documents in a drawn order, laid end to end and cut, of one source or drawn from several."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scale_cli.core.errors import RequestError
from scale_cli.data.tokens import Chunk

Group = Callable[[int], Sequence[Chunk] | None]
"""The chunks that are shuffled together, by the group's number; None behind the last."""


class Shuffled:
    """The documents of a group in a drawn order, end to end, cut into windows; the rest behind the last is left out.

    Nothing is copied: a window is gathered from the files when it is asked for.
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
        """Where each document begins in the drawn order; `shifts` from there lead to where it lies."""
        self.shifts = starts - self.begins

    def windows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows of these numbers: tokens, and the position of each in its document or its part of one.

        rows: (n,). Returns two arrays (n, length).
        """
        first = rows[:, None] * self.length
        places = first + np.arange(self.length)
        documents = np.searchsorted(self.begins, places, side="right") - 1
        return self._gather(places + self.shifts[documents]), places - np.maximum(self.begins[documents], first)

    def borders(self, rows: int) -> int:
        """How many documents begin inside the first so many windows, and not where a window does."""
        inside = self.begins[: np.searchsorted(self.begins, rows * self.length)]
        return int((inside % self.length != 0).sum())

    def _gather(self, places: np.ndarray) -> np.ndarray:
        if len(self.tokens) == 1:
            return self.tokens[0][places]
        parts = np.searchsorted(self.ends, places, side="right")
        found = np.empty(places.shape, np.uint32)
        for part in np.unique(parts):
            here = parts == part
            found[here] = self.tokens[part][places[here] - (self.ends[part] - len(self.tokens[part]))]
        return found


class Windows:
    """The windows of one source, epoch after epoch: window i is a function of the seed and i.

    An epoch is its groups one after the other, each in an order of its own; how many windows a group has is known
    when a window behind it is asked for, so a stream is read no further than it is needed.
    """

    def __init__(self, name: str, group: Group, length: int, seed: Sequence[int]) -> None:
        """name: what an error calls it. seed: of the run and of the source, one number each."""
        self.name = name
        self.group = group
        self.length = length
        self.seed = tuple(seed)
        self._ends: list[int] = []  # windows up to the end of each group that is known
        self._tokens = 0
        self.empty = 0
        """The texts of the groups known so far that were left out, as they hold no token."""
        self._whole = False  # whether these are all groups of an epoch
        self._last: tuple[tuple[int, int], Shuffled] | None = None

    def locate(self, index: int) -> tuple[int, int, int]:
        """Epoch, group and row of a window. RequestError where the source has less than one in all."""
        while not self._whole and (not self._ends or index >= self._ends[-1]):
            self._look_at_next_group()
        epoch, index = divmod(index, self._ends[-1]) if self._whole else (0, index)
        group = bisect_right(self._ends, index)
        return epoch, group, index - (self._ends[group - 1] if group else 0)

    def windows(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows of these numbers, as `Shuffled.windows` gives them."""
        located = np.array([self.locate(int(index)) for index in indices])
        tokens = np.empty((len(indices), self.length), np.int64)
        positions = np.empty_like(tokens)
        for epoch, group in np.unique(located[:, :2], axis=0):
            here = (located[:, 0] == epoch) & (located[:, 1] == group)
            tokens[here], positions[here] = self._shuffled(int(epoch), int(group)).windows(located[here, 2])
        return tokens, positions

    def borders(self, count: int) -> int:
        """How many documents begin inside the first `count` windows, and not where a window does."""
        return sum(self._shuffled(epoch, group).borders(rows) for epoch, group, rows in self._groups(count))

    def _groups(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Epoch, group and number of windows, for each group that the first `count` windows lie in."""
        done = 0
        while done < count:
            epoch, group, _ = self.locate(done)
            size = self._ends[group] - (self._ends[group - 1] if group else 0)
            rows = min(size, count - done)
            yield epoch, group, rows
            done += rows

    def _look_at_next_group(self) -> None:
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
            # Zeros at its end do not change a seed: the first source, if it is one group, is drawn by seed and epoch.
            generator = np.random.default_rng([self.seed[0], epoch, *self.seed[1:], group])
            self._last = ((epoch, group), Shuffled(chunks, self.length, generator))
        return self._last[1]


def interleave(weights: Sequence[float], total: int) -> tuple[np.ndarray, np.ndarray]:
    """From which source each of `total` windows is taken, and the number that it has there; two arrays (total,).

    Every beginning holds the sources by their weights as evenly as can be: window k of a source with the share w is
    due at (k + 1/2) / w, and they come as they are due. So a longer run begins like a shorter one.
    """
    shares = np.asarray(weights) / np.sum(weights)
    counts = np.ceil(shares * (total + len(shares))).astype(np.int64) + 1
    sources = np.repeat(np.arange(len(counts), dtype=np.min_scalar_type(len(counts))), counts)
    numbers = np.concatenate([np.arange(count) for count in counts])
    order = np.lexsort((sources, (numbers + 0.5) / shares[sources]))[:total]
    return sources[order], numbers[order]
