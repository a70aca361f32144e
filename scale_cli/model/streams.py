"""The two streams of a widened model on one or two paths through the decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Streams(NamedTuple):
    """The base's stream `x`, the added stream `x_up`, and how many paths both run on.

    There is one path (R = B rows), or two above SCALE-Route's fork: the rows of the preserving path, for which W12 is
    masked, come first and those of the adapting path follow (R = 2 B).
    """

    x: tuple[Tensor, ...]
    """(R, T, ...) in all. One tensor; with gradients one tensor per path, (B, T, ...) each, because only the adapting
    path's depends on trained parameters (Theorem 3.1: with W12 = 0 the base's stream is the base model's)."""
    x_up: Tensor
    """(R, T, ...)."""
    paths: int = 1

    @property
    def masked(self) -> int:
        """The number of leading rows for which W12 is masked."""
        return 0 if self.paths == 1 else self.x_up.shape[0] // 2

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of `x`, then `x_up`: what a layer takes and returns, because autograd tracks flat tuples only."""
        return (*self.x, self.x_up)

    def forked(self) -> Streams:
        """One path as two equal ones: x apart if gradients are enabled, else as rows of one tensor."""
        (x,) = self.x
        apart = (x, x) if torch.is_grad_enabled() else (torch.cat((x, x)),)
        return Streams(apart, torch.cat((self.x_up, self.x_up)), 2)

    def per_path(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """x of every path and x_up of every path, (B, T, ...) each."""
        x, x_up, paths = self
        if paths == 1:
            return x, (x_up,)
        return x if len(x) == paths else x[0].chunk(paths), x_up.chunk(paths)

    def last_path(self) -> tuple[Tensor, Tensor]:
        """x and x_up of the adapting path, or of the only path, (B, T, ...) each."""
        x, x_up = self.per_path()
        return x[-1], x_up[-1]

    def map(self, of_x: Callable[[Tensor], Tensor], of_x_up: Callable[[Tensor], Tensor]) -> Streams:
        """`of_x` of every tensor of x, and `of_x_up` of x_up."""
        return Streams(tuple([of_x(t) for t in self.x]), of_x_up(self.x_up), self.paths)

    def plus(self, other: Streams) -> Streams:
        """The sum, stream by stream."""
        x = tuple([a + b for a, b in zip(self.x, other.x, strict=True)])
        return Streams(x, self.x_up + other.x_up, self.paths)


def join_rows(tensors: Sequence[Tensor]) -> Tensor:
    """The rows of all tensors in one tensor."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))
