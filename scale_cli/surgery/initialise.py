"""The values of what widening adds: W21 and W22 of a linear map, and the added columns of the embedding.

Three kinds: "zero"; "random", He initialisation; "svd", a part of the map itself, reduced to its leading singular
directions as in LESA (arXiv 2502.13794). Signs of singular vectors are fixed, so that they do not hang on the machine.
With "zero" for both W21 and W22 the added heads and feed-forward features never learn: what enters and what leaves them
is zero, and the gradient of each holds the other as a factor.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Init = Literal["zero", "random", "svd"]
INITS: tuple[Init, ...] = get_args(Init)

EXACT_LIMIT = 1024
"""Up to this many singular values the decomposition is exact; above it is randomised where few are wanted."""
OVERSAMPLING = 32
POWER_ITERATIONS = 4


def expand_linear(
    weight: Tensor, *, extra_in: int, extra_out: int, init: tuple[Init, Init], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """W21 and W22 of the widened map [[W, W12], [W21, W22]] (SCALE, arXiv 2511.03270, eq. 1).

    weight: W, (out_features, in_features), any float dtype; read, never changed.
    extra_in, extra_out: features added, counts >= 0.
    init: one of "zero", "random", "svd" for each of W21 and W22. With W = U S V^T and k = extra_out, m = extra_in:
        "svd" is U_k^T W = S_k V_k^T for W21 and U_k^T W V_m, the corner (k, m) of S, for W22; "random" is normal with
        standard deviation sqrt(2 / (in_features + extra_in)), the fan-in of the whole widened row.
    generator: of the CPU; random values and the randomised decomposition draw from it.
    Returns w21 (extra_out, in_features) and w22 (extra_out, extra_in) in weight's dtype and device.
    Raises ValueError if weight is not two-dimensional, a count is negative, a word is unknown, or "svd" is asked for
    more directions than W has.
    """
    _check(weight, extra_in, extra_out)
    unknown = set(init) - set(INITS)
    if unknown or len(init) != 2:
        raise ValueError(f"init {init}: W21 and W22 are each one of {', '.join(INITS)}")
    out_features, in_features = weight.shape
    rank = min(out_features, in_features)
    if "svd" in init and extra_out > rank:
        raise ValueError(f"{extra_out} added rows: svd finds at most {rank} in a map of {out_features} x {in_features}")
    if init[1] == "svd" and extra_in > in_features:
        raise ValueError(f"{extra_in} added columns: svd finds at most {in_features} in a map of {in_features} columns")

    projected = leading_right_singular(weight, extra_out, generator=generator) if "svd" in init else None
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


def expand_embedding(weight: Tensor, *, extra: int, init: Init, generator: torch.Generator) -> Tensor:
    """The added columns W_in_up of the embedding W_in; open in the paper.

    weight: W_in, (vocabulary, hidden_size), any float dtype; read, never changed.
    extra: features added, a count >= 0.
    init: the word that W21 has. "svd" is W_in V_k, the rows seen in the leading k = extra right-singular directions;
        "random" and "zero" are normal with W_in's own standard deviation. The columns are never zero: with a zero W21
        and the zero head the added half would then be zero for ever, and no gradient would reach anything.
    Returns (vocabulary, extra) in weight's dtype and device.
    Raises ValueError if weight is not two-dimensional, the count is negative, or svd is asked for too many directions.
    """
    _check(weight, extra, extra)
    if init != "svd":
        columns = torch.randn(weight.shape[0], extra, generator=generator) * weight.float().std().item()
    elif extra > min(weight.shape):
        raise ValueError(f"{extra} added columns: svd finds at most {min(weight.shape)} in {tuple(weight.shape)}")
    else:
        columns = leading_right_singular(weight.T, extra, generator=generator).T  # W V_k = U_k S_k = (S_k U_k^T)^T
    return columns.to(weight.device, weight.dtype)


def leading_right_singular(weight: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """S_k V_k^T of W = U S V^T, k = count: the rows of U_k^T W, orthogonal, longest first, on the CPU.

    weight: (out_features, in_features); count: at most the smaller of both.
    Exact in float64 (by the Gram matrix of the shorter side) where that side has up to `EXACT_LIMIT` features or many
    directions are wanted; else randomised in float32, seeded by `generator`. The largest entry of each row is positive.
    """
    matrix = weight.detach().cpu()
    shorter = min(matrix.shape)
    if shorter > EXACT_LIMIT and count + OVERSAMPLING <= shorter // 4:
        matrix = matrix.float()
        with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global generator only
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            _, s, v = torch.svd_lowrank(matrix, q=count + OVERSAMPLING, niter=POWER_ITERATIONS)
        rows = (v[:, :count] * s[:count]).T
    else:
        matrix = matrix.double()
        tall = matrix.shape[0] >= matrix.shape[1]
        squares, vectors = torch.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)  # ascending
        leading = vectors[:, shorter - count :].flip(1)
        if tall:
            s = squares[shorter - count :].flip(0).clamp_min(0.0).sqrt()
            rows = (leading * s).T
        else:
            rows = leading.T @ matrix
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return rows * torch.where(largest < 0, -1.0, 1.0).to(rows.dtype)


def _zero_or_normal(init: Init, shape: tuple[int, int], std: float, generator: torch.Generator) -> Tensor:
    return torch.zeros(shape) if init == "zero" else torch.randn(shape, generator=generator) * std


def _check(weight: Tensor, extra_in: int, extra_out: int) -> None:
    if weight.ndim != 2:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} is no matrix")
    if extra_in < 0 or extra_out < 0:
        raise ValueError(f"{extra_in} added columns and {extra_out} added rows; counts are at least 0")
