"""The library's loss of a causal language model, of logits that exist one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .head import CHUNK_POSITIONS, Head
from .streams import Streams

IGNORED = -100
"""The label of a position without a loss, as in the library."""


def chunked_loss(
    head: Head,
    streams: Streams,
    labels: Tensor,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
) -> Tensor:
    """The cross-entropy of the next token, ().

    streams: the final normalised ones. labels: (B, T), the tokens themselves. shift_labels: (B, T), the targets, if
    `labels` does not give them. num_items_in_batch: divisor of the sum; None: the number of targets.
    """
    if shift_labels is None:
        shift_labels = functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    targets = shift_labels.to(streams.x_up.device).flatten()
    parameters = [*head.base.parameters(), *head.added.parameters()]

    def sum_of_losses(targets: Tensor, *rows: Tensor) -> Tensor:
        logits, _ = head(rows[: streams.paths], rows[streams.paths :])
        return functional.cross_entropy(logits.float(), targets, ignore_index=ignore_index, reduction="sum")

    x, x_up = streams.per_path()
    rows = (t.flatten(0, 1) for t in (*x, *x_up))
    total = SumOverChunks.apply(sum_of_losses, len(parameters), *parameters, targets, *rows)
    count = (targets != ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)


class SumOverChunks(torch.autograd.Function):
    """A sum over rows, `CHUNK_POSITIONS` at a time. Its forward computes the gradients, so that no chunk's graph stays.

    apply(function, number, *parameters, *rows): `function(*rows)` is the sum over some rows, a scalar. It may use the
    `number` parameters. All rows have the same length.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], number: int, *inputs: Tensor) -> Tensor:
        parameters, rows = inputs[:number], inputs[number:]
        needed = ctx.needs_input_grad[2:]
        trained = [p for p, needs in zip(parameters, needed[:number], strict=True) if needs]
        with_gradient = [i for i, needs in enumerate(needed[number:]) if needs]
        total: Any = 0
        of_parameters: list[Tensor] = []
        of_rows: list[list[Tensor]] = []
        for chunk in zip(*(t.split(CHUNK_POSITIONS) for t in rows), strict=True):
            leaves = [t.detach().requires_grad_(i in with_gradient) for i, t in enumerate(chunk)]
            with torch.set_grad_enabled(bool(trained or with_gradient)):
                value = function(*leaves)
            total = total + value.detach()
            if not value.requires_grad:
                continue
            with torch.autocast(value.device.type, enabled=False):
                gradients = torch.autograd.grad(value, [*trained, *(leaves[i] for i in with_gradient)])
            first = gradients[: len(trained)]
            of_parameters = (
                [a.add_(b) for a, b in zip(of_parameters, first, strict=True)] if of_parameters else [*first]
            )
            of_rows.append([*gradients[len(trained) :]])
        ctx.save_for_backward(*of_parameters, *(torch.cat(parts) for parts in zip(*of_rows, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradients = (gradient * outer[0].to(gradient.dtype) for gradient in ctx.saved_tensors)
        return None, None, *(next(gradients) if needs else None for needs in ctx.needs_input_grad[2:])
