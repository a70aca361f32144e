"""The leading singular values and right-singular vectors of a matrix, from its Gram matrix W^T W.

The Gram matrix takes one pass over the rows. Its leading eigenvectors are computed by LAPACK ("full") or, if few are
wanted, approximated by a block Krylov method ("randomized"; Musco and Musco, arXiv 1504.05477). "auto" chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

SvdSolver = Literal["auto", "full", "randomized"]
"""As in scikit-learn's PCA."""
SVD_SOLVERS: tuple[SvdSolver, ...] = get_args(SvdSolver)

FLOAT64_LIMIT = 1024
"""The Gram matrix of up to this many columns is computed and decomposed in float64, on the matrix's own device. Larger
ones are computed in float32, which is twice as fast, and on a GPU if there is one."""
RANDOMIZED_SHARE = 1 / 8
"""Above FLOAT64_LIMIT columns "auto" is "randomized" up to this share of the directions: there LAPACK takes 1.2 to 2
times as long at 2048 columns, and more at 4096. At a share of a quarter the two take the same time."""
CHUNK_ROWS = 1024
"""Number of rows of a matrix that are converted to that precision at once."""
GRAM_BLOCK = 256
"""Number of rows of the Gram matrix that are computed at once, up to the diagonal."""
BASIS = 3, 1 / 16
"""Number of vectors that span an approximation: so many times the wanted directions, plus this share of the columns."""
STEPS = 14
"""Number of blocks in which they are made. More and smaller blocks are more accurate, and slower."""


class Rows(Protocol):
    """A matrix with row slices: a tensor, or a stored tensor that reads only the requested rows."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


def chunks(matrix: Rows) -> Iterator[Tensor]:
    """The rows of a matrix, some at a time."""
    for start in range(0, matrix.shape[0], CHUNK_ROWS):
        yield matrix[start : start + CHUNK_ROWS]


def solver_for(columns: int, count: int, solver: SvdSolver = "auto") -> SvdSolver:
    """The solver that computes `count` directions of a matrix with this number of columns: "full" or "randomized"."""
    if solver != "auto":
        return solver
    return "randomized" if columns > FLOAT64_LIMIT and count <= RANDOMIZED_SHARE * columns else "full"


def leading_right(matrix: Rows, count: int, solver: SvdSolver = "auto") -> tuple[Tensor, Tensor]:
    """The largest singular values S_k and their right-singular vectors V_k of W = U S V^T, k = count.

    "full": the Gram matrix hides singular values far below the largest one: below about 1e-8 times it in float64, and
    below 3e-3 times it in float32 at 2048 columns.
    "randomized": the vectors are orthogonal too. They keep at least 0.97 of the energy |W V_k|^2 of the exact ones. The
    hardest matrices are random ones and the values and upward maps of trained layers, whose singular values are close
    together. Leading singular values with a gap below them have exact vectors. The start is the same in every call,
    and no random generator is used that others use.
    The largest entry of every vector is positive, so that results do not depend on the library's signs.
    matrix: W, (rows, columns), preferably with at least as many rows as columns.
    Returns s (count) and v (columns, count).
    Raises ValueError if the matrix holds NaN or infinite values.
    """
    gram = _gram(matrix)
    if not gram.isfinite().all():
        raise ValueError("holds NaN or infinite values, so it has no singular directions")
    if solver_for(len(gram), count, solver) == "full":
        squares, vectors = _leading_eigenvectors(gram, count)
    else:
        squares, vectors = _krylov(gram.tril() + gram.tril(-1).T, count)
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return squares.clamp_min(0.0).sqrt(), vectors * torch.where(largest < 0, -1.0, 1.0)


def _gram(matrix: Rows) -> Tensor:
    """W^T W, its lower triangle at least."""
    columns, device, dtype, block = matrix.shape[1], matrix[0:0].device, torch.float64, matrix.shape[1]
    if columns > FLOAT64_LIMIT:
        dtype, block = torch.float32, GRAM_BLOCK
        device = torch.device("cuda") if torch.cuda.is_available() else device
    gram = torch.zeros(columns, columns, dtype=dtype, device=device)
    for chunk in chunks(matrix):
        rows = chunk.to(gram)
        for start in range(0, columns, max(block, 1)):
            end = start + block
            gram[start:end, :end].addmm_(rows[:, start:end].T, rows[:, :end])
    return gram


def _leading_eigenvectors(symmetric: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues and their eigenvectors, largest first, from the lower triangle of a symmetric matrix."""
    size = len(symmetric)
    if count and symmetric.dtype == torch.float32 and symmetric.device.type == "cpu":
        # torch computes all eigenvectors, by another algorithm: twice the time at 2048 columns.
        import scipy.linalg

        wanted = (size - count, size - 1)
        found = scipy.linalg.eigh(symmetric.numpy(), subset_by_index=wanted, check_finite=False)
        values, vectors = (torch.from_numpy(array) for array in found)
    else:
        values, vectors = torch.linalg.eigh(symmetric)
        values, vectors = values[size - count :], vectors[:, size - count :]
    return values.flip(0), vectors.flip(1)  # LAPACK's order is ascending


def _krylov(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Approximations of the largest eigenvalues of a positive semidefinite matrix G and of their eigenvectors.

    The best ones (Rayleigh-Ritz) in the span of X, G X, G^2 X ... for a random block X. Orthogonal blocks are computed
    as by Lanczos, and orthogonalised against all earlier blocks. They are smaller than `count`, which costs least
    (Meyer, Musco and Musco, arXiv 2305.02535), but does not find more equal eigenvalues than vectors of a block.
    """
    columns = len(gram)
    size = min(columns, BASIS[0] * count + int(BASIS[1] * columns))
    block = max(1, -(-size // STEPS))
    basis, products = (gram.new_empty(columns, size) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    new = torch.randn(columns, block, generator=generator, dtype=gram.dtype).to(gram.device)
    for start in range(0, size, block):
        end = min(size, start + block)
        for against in (max(0, start - 2 * block), 0):  # the neighbours first: rounding leaves parts of the others
            earlier = basis[:, against:start]
            new = torch.linalg.qr(new - earlier @ (earlier.T @ new)).Q
        basis[:, start:end] = new[:, : end - start]
        new = gram @ new
        products[:, start:end] = new[:, : end - start]
    values, coordinates = _leading_eigenvectors(basis.T @ products, count)
    return values, basis @ coordinates
