"""From the final streams to logits: the widened head, Z + Z_up, and under a cosine router the choice between two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .linear import plus_product
from .routing import route
from .streams import Streams, join_rows

CHUNK_POSITIONS = 512
"""Chunk size, in positions, for logits that are computed piecewise."""


class ExpansionHead(nn.Module):
    """The addition to the head, which widens its input and not its output. weight: (vocabulary, hidden_up)."""

    def __init__(self, in_up: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, in_up))

    def forward(self, x_up: Tensor, z: Tensor) -> Tensor:
        """Z + Z_up, (..., vocabulary), from x_up (..., hidden_up) and the base's Z (..., vocabulary)."""
        return plus_product(z, x_up, self.weight)


@dataclass
class Head:
    """Both heads and the rule that combines their logits.

    base: the base's head. added: its addition. tau: the threshold of eq. 5, which two paths need. cap: c if the base
    caps its logits by c tanh(z / c).
    """

    base: nn.Module
    added: ExpansionHead
    tau: float | None
    cap: float | None

    def __call__(self, x: Sequence[Tensor], x_up: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The logits of the final normalised streams.

        x (..., hidden) and x_up (..., hidden_up): one tensor each, or those of the preserving and the adapting path.
        Returns logits (..., vocabulary), and for two paths which tokens took the preserving branch, (...) bool.
        """
        if len(x) == 1:
            return self._capped(self.added(x_up[0], self.base(x[0]))), None
        assert self.tau is not None
        if torch.is_grad_enabled():
            z_preserve, z_adapt = (self.base(t) for t in x)
        else:  # one call reads the matrix once
            z_preserve, z_adapt = self.base(torch.stack(tuple(x)))
        z, preserved = route(z_preserve, z_adapt, self.tau)
        # Z_up is needed for the chosen path only.
        chosen = torch.where(preserved.unsqueeze(-1).to(x_up[0].device), *x_up)
        return self._capped(self.added(chosen, z)), preserved

    def of_base(self, x: Sequence[Tensor]) -> Tensor:
        """The logits of the base, (..., vocabulary). x: as in `both`."""
        return self._capped(self.base(x[0]))

    def both(self, x: Sequence[Tensor], x_up: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The logits of the base, and those of the widened model on the adapting path or the only one.

        x (..., hidden) and x_up (..., hidden_up): one tensor per path. Returns (..., vocabulary) each.
        """
        if len(x) == 1:
            z = z_adapted = self.base(x[0])
        elif torch.is_grad_enabled():
            z, z_adapted = (self.base(t) for t in x)
        else:  # one call reads the matrix once
            z, z_adapted = self.base(torch.stack(tuple(x)))
        return self._capped(z), self._capped(self.added(x_up[-1], z_adapted))

    def logits(self, streams: Streams) -> tuple[Tensor, Tensor | None]:
        """The same for whole sequences: (B, T, vocabulary), and (B, T) or None. Two paths are computed in chunks."""
        x, x_up = streams.per_path()
        if streams.paths == 1:
            return self(x, x_up)
        shape = x_up[0].shape[:2]
        chunks = zip(*(t.flatten(0, 1).split(CHUNK_POSITIONS) for t in (*x, *x_up)), strict=True)
        parts = [self(chunk[: streams.paths], chunk[streams.paths :]) for chunk in chunks]
        logits, preserved = (join_rows(part).view(*shape, *part[0].shape[1:]) for part in zip(*parts, strict=True))
        return logits, preserved

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap
