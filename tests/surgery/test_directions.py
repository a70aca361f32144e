"""The leading singular directions: each solver against numpy's decomposition, and the choice between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scale_cli.surgery import directions
from scale_cli.surgery.directions import SVD_SOLVERS, SvdSolver, leading_right, solver_for

SHAPES = [(1600, 400), (400, 400)]
COUNTS = [5, 25, 50]
"""Up to an eighth of the 400 directions, the most that "auto" computes by the randomised method."""


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of more than 300 columns count as large: float32, several blocks of the Gram matrix, several chunks."""
    for name, value in {"FLOAT64_LIMIT": 300, "GRAM_BLOCK": 96, "CHUNK_ROWS": 256}.items():
        monkeypatch.setattr(directions, name, value)


def gaussian(*shape: int) -> Tensor:
    """The hardest matrix: its singular values are close together."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def decaying(rows: int, columns: int, rate: float = 0.97) -> Tensor:
    """Singular values 1, rate, rate^2, ..."""
    u, v = (torch.linalg.qr(gaussian(size, min(rows, columns)).double()).Q for size in (rows, columns))
    return ((u * rate ** torch.arange(min(rows, columns))) @ v.T).float()


def exact(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """numpy's singular values and right-singular vectors, in float64."""
    _, s, vt = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    return torch.from_numpy(s[:count]), torch.from_numpy(vt[:count].T)


def energy_kept(matrix: Tensor, v: Tensor, count: int) -> float:
    """|W V|^2 of the found directions over that of the exact ones."""
    return float((matrix.double() @ v.double()).square().sum() / exact(matrix, count)[0].square().sum())


@pytest.mark.parametrize("solver", ["full", "randomized"])
@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_exact_if_the_singular_values_decay(shape: tuple[int, int], solver: SvdSolver) -> None:
    count = 20
    matrix = decaying(*shape, rate=0.9)
    s, v = leading_right(matrix, count, solver)
    expected_s, expected_v = exact(matrix, count)
    torch.testing.assert_close(s.double(), expected_s, rtol=0, atol=1e-5)
    cosines = (v.double() * expected_v).sum(dim=0).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_randomised_method_keeps_the_energy(shape: tuple[int, int], count: int) -> None:
    """Also without any gap. Its singular values are those of its vectors, largest first, and the vectors orthogonal."""
    matrix = gaussian(*shape)
    s, v = leading_right(matrix, count, "randomized")
    assert 0.98 <= energy_kept(matrix, v, count) <= 1 + 1e-6
    torch.testing.assert_close((matrix @ v).norm(dim=0), s, rtol=1e-4, atol=0)
    torch.testing.assert_close(v.T @ v, torch.eye(count), rtol=0, atol=1e-4)
    assert (s.diff() <= 0).all()


@pytest.mark.parametrize("count", COUNTS)
def test_at_a_gap_the_subspace_is_exact(count: int) -> None:
    """The sine of the largest angle to the exact subspace, for directions three times as long as the rest."""
    rest = gaussian(1600, 400)
    _, s, vt = torch.linalg.svd(rest, full_matrices=False)
    lengths = s[0] * torch.linspace(6, 3, count)
    matrix = rest + (rest @ vt[:count].T * (lengths / s[:count] - 1)) @ vt[:count]
    _, v = leading_right(matrix, count, "randomized")
    _, expected = exact(matrix, count)
    assert torch.linalg.matrix_norm(v.double() - expected @ (expected.T @ v.double()), 2) < 1e-3


def test_fewer_vectors_would_keep_less(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, count = gaussian(1600, 400), 50
    monkeypatch.setattr(directions, "BASIS", (1, 0))
    assert energy_kept(matrix, leading_right(matrix, count, "randomized")[1], count) < 0.9


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("solver", ["full", "randomized"])
def test_directions_of_a_lower_rank_are_found_once(solver: SvdSolver, rank: int) -> None:
    """The block Krylov method breaks down there: after some blocks it multiplies nothing but rounding errors."""
    count = 30
    matrix = gaussian(1600, rank) @ gaussian(rank, 400)
    s, v = leading_right(matrix, count, solver)
    expected, _ = exact(matrix, count)
    torch.testing.assert_close(s.double(), expected, rtol=1e-4, atol=float(3e-3 * expected[0]))
    assert v.isfinite().all()


def test_same_bytes_and_no_other_random_number() -> None:
    matrix = gaussian(500, 400)
    state = torch.get_rng_state()
    first, second = (leading_right(matrix, 40, "randomized") for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("solver", SVD_SOLVERS)
def test_the_largest_entry_of_every_vector_is_positive(solver: SvdSolver) -> None:
    _, v = leading_right(gaussian(500, 400), 40, solver)
    assert (v.gather(0, v.abs().argmax(dim=0, keepdim=True)) > 0).all()


@pytest.mark.parametrize(("columns", "count"), [(1, 1), (8, 5), (40, 15), (400, 150)])
def test_the_randomised_method_of_many_directions_is_exact(columns: int, count: int) -> None:
    """The Krylov space is then the whole space."""
    matrix = gaussian(500, columns)
    s, _ = leading_right(matrix, count, "randomized")
    torch.testing.assert_close(s.double(), exact(matrix, count)[0], rtol=1e-5, atol=0)


def test_auto_takes_the_randomised_method_for_few_directions_of_large_matrices() -> None:
    chosen = {(columns, count): solver_for(columns, count) for columns in (300, 400) for count in (50, 51)}
    assert chosen == {(300, 50): "full", (300, 51): "full", (400, 50): "randomized", (400, 51): "full"}
    asked: list[Any] = ["full", "randomized"]
    assert [solver_for(300, 299, solver) for solver in asked] == asked
    matrix = gaussian(500, 400)
    taken: list[tuple[int, Any]] = [(50, "randomized"), (51, "full")]
    for count, solver in taken:
        assert torch.equal(leading_right(matrix, count)[1], leading_right(matrix, count, solver)[1])
    assert not torch.equal(leading_right(matrix, 50, "full")[1], leading_right(matrix, 50)[1])


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["full", "randomized"])
def test_large_matrices_are_decomposed_on_the_gpu(solver: SvdSolver) -> None:
    matrix, count = gaussian(1600, 400), 50
    s, v = leading_right(matrix, count, solver)
    assert (s.device.type, v.device.type) == ("cuda", "cuda")
    assert energy_kept(matrix, v.cpu(), count) >= 0.98
