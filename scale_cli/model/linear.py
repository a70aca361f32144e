"""Eq. 1 of SCALE (arXiv 2511.03270): a linear map widened by W12, W21 and W22.

    [ y    ]   [ W    W12 ] [ x    ]
    [ y_up ] = [ W21  W22 ] [ x_up ]

W is the base's and frozen; x is the base's stream, x_up the added one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .streams import Streams, join_rows


class ExpansionLinear(nn.Module):
    """W21 and W22 of one linear map, a bias where the base's map has one, and W12 where the map collaborates.

    w21 (out_up, in), w22 (out_up, in_up), bias (out_up), w12 (out, in_up) or None.
    """

    def __init__(self, out_features: int, in_features: int, out_up: int, in_up: int, *, bias: bool) -> None:
        super().__init__()
        self.out_features = out_features
        self.w21 = nn.Parameter(torch.empty(out_up, in_features))
        self.w22 = nn.Parameter(torch.empty(out_up, in_up))
        self.bias = nn.Parameter(torch.empty(out_up)) if bias else None
        self.w12: nn.Parameter | None
        self.register_parameter("w12", None)

    def set_collaborative(self, collaborative: bool) -> None:
        """Create a zero W12, or remove it; an existing W12 keeps its values."""
        if collaborative and self.w12 is None:
            self.w12 = nn.Parameter(self.w22.new_zeros(self.out_features, self.w22.shape[1]))
        elif not collaborative:
            self.w12 = None

    def forward(self, streams: Streams, y: tuple[Tensor, ...]) -> Streams:
        """Eq. 1, given the base's part y = W x (+ its bias).

        streams: x (R, T, in) and x_up (R, T, in_up). y: (R, T, out), in as many tensors as x.
        Returns y + W12 x_up, (R, T, out), and W21 x + W22 x_up (+ bias), (R, T, out_up). Rows for which W12 is masked,
        and all rows without W12, keep y.
        """
        x, x_up, paths = streams
        if self.w12 is not None:
            y = (*y[:-1], self._collaborate(y[-1], x_up, streams.masked))
        y_up = plus_product(join_rows([functional.linear(t, self.w21, self.bias) for t in x]), x_up, self.w22)
        return Streams(y, y_up, paths)

    def _collaborate(self, y: Tensor, x_up: Tensor, masked: int) -> Tensor:
        """y + W12 x_up. y: the last of the tensors, which holds all rows that are not masked."""
        assert self.w12 is not None
        if masked == 0:
            return plus_product(y, x_up, self.w12)
        if len(y) < len(x_up):
            return plus_product(y, x_up[masked:], self.w12)
        # In place: without gradients nothing else holds y.
        y[masked:] += functional.linear(x_up[masked:], self.w12).view_as(y[masked:])
        return y


def plus_product(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y + x W^T without a tensor for the product.

    y: (..., out), or with `out` spread over several dimensions. x: (..., in). weight: (out, in).
    """
    if x.shape[-2] == 1:  # one generated token: the number of calls counts, and the product is small
        return y + functional.linear(x, weight).view_as(y)
    return torch.addmm(y.reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1]), weight.t()).view(y.shape)
