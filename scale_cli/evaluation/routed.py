"""The share of tokens that a router sent to the preserve branch while the harness runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class RoutedShare:
    """Counts the tokens that took the preserve branch while the harness runs a model with a cosine router.

    Under a mixture router it sums the base's weights instead.

    It counts the positions whose logits are scored: those that predict tokens of a continuation, and in generation
    those that chose a token, up to the end-of-text. Context and padding do not count. A position that answers several
    requests (single-token choices after one prompt) counts once. A request that is repeated to give all processes
    equally many counts again.
    """

    def __init__(self, lm: Any) -> None:
        """Wrap the methods of an `HFLM`. Its results do not change."""
        self.preserved = 0.0
        self.scored = 0
        self._forward: list[torch.Tensor] = []
        self._lm = lm
        self._row = 0
        self._select, self._generate, self._call = lm._select_cont_toks, lm._model_generate, lm._model_call
        lm._model_call, lm._select_cont_toks, lm._model_generate = self._called, self._selected, self._generated

    @property
    def share(self) -> float | None:
        return self.preserved / self.scored if self.scored else None

    def over_processes(self) -> float | None:
        """The share over all processes. Every process must call it."""
        counts = torch.tensor([[self.preserved, self.scored]], dtype=torch.float64, device=self._lm.device)
        preserved, scored = self._lm.all_gather(counts).sum(dim=0).tolist()
        self.preserved, self.scored = preserved, int(scored)
        return self.share

    def _watched(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of `call`. `_forward` collects each forward pass's `preserved`, (rows, positions)."""
        self._forward = []
        keep = lambda module, arguments, output: self._forward.append(output.preserved)  # noqa: E731
        handle = self._lm.model.register_forward_hook(keep)
        try:
            return call(*args, **kwargs)
        finally:
            handle.remove()

    def _called(self, *args: Any, **kwargs: Any) -> Any:
        self._row = 0
        return self._watched(self._call, *args, **kwargs)

    def _selected(self, logits: torch.Tensor, contlen: int | None = None, inplen: int | None = None) -> Any:
        """Called by the harness for the scored logits of each request, row by row of the latest forward pass."""
        assert contlen is not None
        assert inplen is not None
        self._count(self._forward[-1][self._row, inplen - contlen : inplen])
        self._row += 1
        return self._select(logits, contlen=contlen, inplen=inplen)

    def _generated(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        tokens = self._watched(self._generate, context, *args, **kwargs)
        chosen = torch.stack([preserved[:, -1] for preserved in self._forward], dim=1)  # (rows, new tokens)
        new = tokens[:, context.shape[1] :]
        ended = (new == self._lm.eot_token_id).cumsum(dim=1) - (new == self._lm.eot_token_id).int()
        self._count(chosen[:, : new.shape[1]][ended == 0])
        return tokens

    def _count(self, preserved: torch.Tensor) -> None:
        self.preserved += float(preserved.sum())
        self.scored += preserved.numel()
