"""Batches of extra examples beside batches of training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from scale_cli.data.examples import Examples

EXTRA = "extra"
"""The key of the extra batch in a batch of training data."""


class Beside(Dataset[dict[str, Any]]):
    """Training examples in batches, each with `rows` extra examples under the key "extra".

    Batch b of the run, over all processes, has the extra examples b * rows to (b + 1) * rows - 1. So the extra examples
    are a function of the seed and the step alone, and a resumed run reads the same ones as an uninterrupted run.
    """

    def __init__(self, examples: Examples, extra: Examples, *, batch_size: int, rows: int) -> None:
        """batch_size: examples of a batch. Raises ValueError if the extra examples are too few."""
        self.examples, self.extra = examples, extra
        self.batch_size, self.rows = batch_size, rows
        needed = len(examples) // batch_size * rows
        if len(extra) < needed:
            raise ValueError(f"{len(extra)} extra examples; {len(examples) // batch_size} batches need {needed}")

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """The batch of these examples, which are those of one batch of the run."""
        batch, first = divmod(indices[0], self.batch_size)
        assert first == 0
        assert list(indices) == list(range(indices[0], indices[0] + self.batch_size))
        extra = self.extra.__getitems__(range(batch * self.rows, (batch + 1) * self.rows))
        return {**self.examples.__getitems__(indices), EXTRA: extra}

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """A training example alone."""
        return self.examples[index]
