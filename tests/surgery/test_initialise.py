"""W21, W22 and the embedding's added columns: values, laws, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scale_cli.surgery import directions, expand_embedding, expand_linear, initialise
from scale_cli.surgery.directions import SvdSolver
from scale_cli.surgery.initialise import Init

Tolerance = Callable[[torch.dtype], Any]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def decaying(out_features: int, in_features: int) -> Tensor:
    """A float32 matrix with singular values 1, 0.9, 0.81, ..."""
    rank = min(out_features, in_features)
    u = torch.linalg.qr(matrix(out_features, rank)).Q
    v = torch.linalg.qr(matrix(in_features, rank, seed=1)).Q
    return ((u * 0.9 ** torch.arange(rank)) @ v.T).float()


def up_to_signs(found: Tensor, expected: Tensor) -> Tensor:
    """`expected` with the signs of the rows of `found`."""
    return expected * torch.sign((found * expected).sum(dim=1, keepdim=True))


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (12, 12)])
def test_svd_is_the_leading_part_of_numpys(shape: tuple[int, int], tolerance: Tolerance) -> None:
    weight, k, m = matrix(*shape), 5, 7
    w21, w22 = expand_linear(weight, extra_in=m, extra_out=k, init=("svd", "svd"), generator=seeded())
    u, s, vt = (torch.from_numpy(a) for a in np.linalg.svd(weight.numpy()))
    close = tolerance(torch.float64)
    torch.testing.assert_close(w21, up_to_signs(w21, s[:k, None] * vt[:k]), **close)
    torch.testing.assert_close(w21, up_to_signs(w21, u[:, :k].T @ weight), **close)
    torch.testing.assert_close(w22, torch.diag(s)[:k, :m].to(w22), **close)
    torch.testing.assert_close(w22, (u[:, :k].T @ weight @ vt[:m].T), **close)
    gram = w21 @ w21.T
    torch.testing.assert_close(gram, torch.diag(s[:k] ** 2), **close)


def test_signs_do_not_hang_on_the_machine() -> None:
    """The largest entry of every row of W21 is positive, whatever the signs of the library's vectors."""
    w21, _ = expand_linear(matrix(20, 12), extra_in=2, extra_out=6, init=("svd", "zero"), generator=seeded())
    assert (w21.gather(1, w21.abs().argmax(dim=1, keepdim=True)) > 0).all()
    negated, _ = expand_linear(-matrix(20, 12), extra_in=2, extra_out=6, init=("svd", "zero"), generator=seeded())
    torch.testing.assert_close(negated, w21)


@pytest.mark.parametrize("shape", [(200, 160), (160, 200), (160, 160)])
def test_float32_is_close_to_float64(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The method for large maps, on a small one in several chunks, against the library's own decomposition."""
    monkeypatch.setattr(directions, "CHUNK_ROWS", 64)
    weight, k = decaying(*shape), 24
    arguments: dict[str, Any] = {"extra_in": 30, "extra_out": k, "init": ("svd", "svd"), "generator": seeded()}
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    for limit, precision in ((1024, 1e-7), (100, 1e-4)):
        monkeypatch.setattr(directions, "FLOAT64_LIMIT", limit)
        w21, w22 = (values.double() for values in expand_linear(weight, **arguments))
        expected = up_to_signs(w21, s[:k, None] * vt[:k])
        torch.testing.assert_close(w21, expected, rtol=0.0, atol=precision)
        torch.testing.assert_close(w21.abs(), (u[:, :k].T @ weight.double()).abs(), rtol=0.0, atol=precision)
        torch.testing.assert_close(w22, torch.diag(s[:30])[:k], rtol=0.0, atol=precision)
    assert not torch.equal(expected, w21)  # float32 was asked for in the end


@pytest.mark.parametrize("solver", ["full", "randomized"])
def test_no_chance_is_in_the_svd(solver: SvdSolver) -> None:
    """It uses neither the given nor the global random generator."""
    weight, generator = matrix(200, 160, dtype=torch.bfloat16), seeded()
    states = torch.get_rng_state(), generator.get_state()
    options: dict[str, Any] = {"generator": generator, "solver": solver}
    added = [expand_linear(weight, extra_in=3, extra_out=8, init=("svd", "svd"), **options) for _ in range(2)]
    columns = [expand_embedding(weight, extra=5, init="svd", **options) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(generator.get_state(), states[1])
    assert all(torch.equal(first, second) for first, second in zip(*added, strict=True))
    assert torch.equal(*columns)


class FewRows:
    """A matrix that records the largest number of rows read at once."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.shape = tuple(matrix.shape)
        self.most = 0

    def __getitem__(self, rows: slice, /) -> Tensor:
        part = self.matrix[rows]
        self.most = max(self.most, len(part))
        return part


@pytest.mark.parametrize("init", initialise.INITS)
def test_the_embedding_is_read_some_rows_at_a_time(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = matrix(50, 12, dtype=torch.bfloat16)
    whole = expand_embedding(weight, extra=4, init=init, generator=seeded())
    monkeypatch.setattr(directions, "CHUNK_ROWS", 8)
    few = FewRows(weight)
    found = expand_embedding(few, extra=4, init=init, generator=seeded())
    assert few.most == 8
    if init == "svd":  # random values are drawn a chunk at a time, so that they hang on its size
        torch.testing.assert_close(found, whole)
    assert (found.shape, found.dtype) == (whole.shape, torch.bfloat16)
    again = expand_embedding(few, extra=4, init=init, generator=seeded())
    assert torch.equal(found, again)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_a_rank_deficient_map_gives_finite_values(shape: tuple[int, int]) -> None:
    for weight in (torch.zeros(shape), torch.ones(shape)):
        w21, w22 = expand_linear(weight, extra_in=4, extra_out=9, init=("svd", "svd"), generator=seeded())
        assert w21.isfinite().all()
        assert w22.isfinite().all()
        torch.testing.assert_close(w21[1:], torch.zeros_like(w21[1:]), rtol=0, atol=1e-5)


def test_random_is_he_of_the_whole_row_and_zero_is_zero() -> None:
    weight = torch.full((300, 400), 7.0)
    w21, w22 = expand_linear(weight, extra_in=100, extra_out=200, init=("random", "random"), generator=seeded())
    for values in (w21, w22):
        assert values.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
        assert values.mean().item() == pytest.approx(0, abs=1e-3)
    zeros = expand_linear(weight, extra_in=100, extra_out=200, init=("zero", "zero"), generator=seeded())
    assert not any(values.any() for values in zeros)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("w22", initialise.INITS)
@pytest.mark.parametrize("w21", initialise.INITS)
def test_shapes_dtypes_and_an_unchanged_weight(w21: Init, w22: Init, dtype: torch.dtype) -> None:
    weight = matrix(14, 10, dtype=dtype)
    kept = weight.clone()
    added = expand_linear(weight, extra_in=3, extra_out=4, init=(w21, w22), generator=seeded())
    assert [tuple(values.shape) for values in added] == [(4, 10), (4, 3)]
    assert all(values.dtype == dtype for values in added)
    assert torch.equal(weight, kept)
    empty = expand_linear(weight, extra_in=0, extra_out=0, init=(w21, w22), generator=seeded())
    assert [tuple(values.shape) for values in empty] == [(0, 10), (0, 0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(3)}, r"a weight of shape \(3,\) is not a matrix"),
        ({"extra_in": -1}, "-1 added columns and 2 added rows; counts are at least 0"),
        ({"extra_out": -1}, "counts are at least 0"),
        ({"init": ("svd", "kaiming")}, "each one of zero, random, svd"),
        ({"extra_out": 5}, "5 added rows: svd has 4 directions in a map of 4 x 6"),
        ({"extra_out": 5, "init": ("zero", "svd")}, "svd has 4"),
        ({"extra_in": 7, "init": ("svd", "svd")}, "7 added columns: svd has 6"),
    ],
)
def test_impossible_expansions_are_refused(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, Any] = {"weight": torch.ones(4, 6), "extra_in": 2, "extra_out": 2, "init": ("svd", "zero")}
    arguments |= changes
    with pytest.raises(ValueError, match=message):
        expand_linear(arguments.pop("weight"), generator=seeded(), **arguments)


def test_the_embedding_is_projected_on_its_leading_directions(tolerance: Tolerance) -> None:
    weight = matrix(50, 16)
    found = expand_embedding(weight, extra=5, init="svd", generator=seeded())
    _, _, vt = (torch.from_numpy(a) for a in np.linalg.svd(weight.numpy()))
    expected = weight @ vt[:5].T
    torch.testing.assert_close(found, up_to_signs(found.T, expected.T).T, **tolerance(torch.float64))
    with pytest.raises(ValueError, match="17 added columns: svd has 16"):
        expand_embedding(weight, extra=17, init="svd", generator=seeded())


@pytest.mark.parametrize("init", ["zero", "random"])
def test_else_the_embedding_is_as_spread_as_the_bases(init: Init) -> None:
    """Also with zero: with zero columns, a zero W21 and the zero head no parameter would get a gradient."""
    weight = 0.02 * matrix(400, 100)
    found = expand_embedding(weight, extra=60, init=init, generator=seeded())
    assert found.dtype == weight.dtype
    assert found.std().item() == pytest.approx(0.02, rel=0.03)
