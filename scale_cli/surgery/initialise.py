"""Initial values of the tensors that widening adds: W21 and W22 of linear maps, and columns of the embedding.

There are three kinds: "zero"; "random", He initialisation; and "svd", the map itself reduced to its leading singular
directions, as in LESA (arXiv 2502.13794). Signs of singular vectors are fixed, so that results do not depend on the
machine. If both W21 and W22 are "zero", the added heads and feed-forward features never learn: their inputs and outputs
are zero, and the gradient of each contains the other as a factor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from scale_cli.surgery import directions
from scale_cli.surgery.directions import Rows, SvdSolver, chunks, leading_right

Init = Literal["zero", "random", "svd"]
INITS: tuple[Init, ...] = get_args(Init)


def expand_linear(
    weight: Tensor,
    *,
    extra_in: int,
    extra_out: int,
    init: tuple[Init, Init],
    generator: torch.Generator,
    solver: SvdSolver = "auto",
) -> tuple[Tensor, Tensor]:
    """W21 and W22 of the widened map [[W, W12], [W21, W22]] (SCALE, arXiv 2511.03270, eq. 1).

    weight: W, (out_features, in_features), any float dtype; read, never changed.
    extra_in, extra_out: number of added features, >= 0.
    init: one of "zero", "random", "svd" for each of W21 and W22. With W = U S V^T and k = extra_out, m = extra_in:
        "svd" is U_k^T W = S_k V_k^T for W21 and U_k^T W V_m, the corner (k, m) of S, for W22; "random" is normal with
        standard deviation sqrt(2 / (in_features + extra_in)), from the fan-in of the whole widened row.
    generator: a CPU generator for the random values; "svd" takes none from it.
    solver: how the directions are computed, as in `leading_right`.
    Returns w21 (extra_out, in_features) and w22 (extra_out, extra_in) in weight's dtype and device.
    Raises ValueError if weight is not two-dimensional, a count is negative, an init is unknown, or "svd" needs more
    directions than W has.
    """
    _check(weight, extra_in, extra_out)
    unknown = set(init) - set(INITS)
    if unknown or len(init) != 2:
        raise ValueError(f"init {init}: W21 and W22 are each one of {', '.join(INITS)}")
    out_features, in_features = weight.shape
    rank = min(out_features, in_features)
    if "svd" in init and extra_out > rank:
        raise ValueError(
            f"{extra_out} added rows: svd has {rank} directions in a map of {out_features} x {in_features}"
        )
    if init[1] == "svd" and extra_in > in_features:
        raise ValueError(
            f"{extra_in} added columns: svd has {in_features} directions in a map of {in_features} columns"
        )

    projected = _projected(weight.detach(), extra_out, solver) if "svd" in init else None
    std = (2.0 / (in_features + extra_in)) ** 0.5

    if init[0] == "svd":
        assert projected is not None
        w21 = projected
    else:
        w21 = _zero_or_normal(init[0], (extra_out, in_features), std, generator)
    if init[1] == "svd":
        assert projected is not None
        w22 = torch.zeros(extra_out, extra_in, dtype=projected.dtype)
        corner = min(extra_out, extra_in)
        w22[:corner, :corner] = torch.diag(projected.norm(dim=1)[:corner])
    else:
        w22 = _zero_or_normal(init[1], (extra_out, extra_in), std, generator)
    return w21.to(weight.device, weight.dtype), w22.to(weight.device, weight.dtype)


def expand_embedding(
    weight: Rows, *, extra: int, init: Init, generator: torch.Generator, solver: SvdSolver = "auto"
) -> Tensor:
    """The added columns W_in_up of the embedding W_in. The paper leaves their initial values open.

    weight: W_in, (vocabulary, hidden_size), any float dtype; read in chunks of rows, never changed.
    extra: number of added features, >= 0.
    init: the init of W21. "svd" is W_in V_k, the projection of the rows onto the leading k = extra right-singular
        directions. "random" and "zero" are normal with W_in's own standard deviation. The columns are never zero: with
        a zero W21 and the zero head the added half would stay zero, and no parameter would get a gradient.
    solver: how the directions are computed, as in `leading_right`.
    Returns (vocabulary, extra) in weight's dtype and device.
    Raises ValueError if weight is not two-dimensional or holds NaN or infinite values, the count is negative, or svd
    needs too many directions.
    """
    _check(weight, extra, extra)
    if init == "svd":
        if extra > min(weight.shape):
            raise ValueError(f"{extra} added columns: svd has {min(weight.shape)} directions in {tuple(weight.shape)}")
        _, v = leading_right(weight, extra, solver)
        return _by_chunks(weight, extra, lambda rows: rows.to(v) @ v)
    std = _std(weight)
    return _by_chunks(weight, extra, lambda rows: std * torch.randn(len(rows), extra, generator=generator))


def _projected(weight: Tensor, count: int, solver: SvdSolver) -> Tensor:
    """U_k^T W = S_k V_k^T of W = U S V^T, k = count: orthogonal rows, longest first, (k, in_features)."""
    if weight.shape[0] >= weight.shape[1]:
        s, v = leading_right(weight, count, solver)
        return (v * s).T
    _, u = leading_right(weight.T, count, solver)
    return torch.cat([rows.to(u) @ u for rows in chunks(weight.T)]).T


def _by_chunks(matrix: Rows, columns: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The results of `function` for all chunks of rows, concatenated, in the matrix's dtype and device."""
    like = matrix[0:0]
    result = torch.empty(matrix.shape[0], columns, dtype=like.dtype, device=like.device)
    for start, rows in zip(range(0, matrix.shape[0], directions.CHUNK_ROWS), chunks(matrix), strict=True):
        result[start : start + len(rows)] = function(rows)
    return result


def _std(matrix: Rows) -> float:
    """The standard deviation of all entries."""
    entries = squares = 0.0
    for chunk in chunks(matrix):
        rows = chunk.double()
        entries, squares = entries + rows.sum().item(), squares + rows.square().sum().item()
    if not math.isfinite(squares):
        raise ValueError("holds NaN or infinite values, so it has no standard deviation")
    count = matrix.shape[0] * matrix.shape[1]
    return float(max(squares - entries**2 / count, 0.0) / max(count - 1, 1)) ** 0.5


def _zero_or_normal(init: Init, shape: tuple[int, int], std: float, generator: torch.Generator) -> Tensor:
    return torch.zeros(shape) if init == "zero" else torch.randn(shape, generator=generator) * std


def _check(weight: Rows, extra_in: int, extra_out: int) -> None:
    if len(weight.shape) != 2:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is not a matrix")
    if extra_in < 0 or extra_out < 0:
        raise ValueError(f"{extra_in} added columns and {extra_out} added rows; counts are at least 0")
