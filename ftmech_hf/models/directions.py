"""What is left of a weight change in a few of its directions, and what would it be in others?

The directions of ``dW`` are its singular vectors: its first k hold more of its squared norm than any other k. The
control turns the change: its rows and columns are put in another order and change their signs by chance, which are
orthogonal maps. So the norm, the rank and every singular value stay, and where the change points does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ftmech_hf.models.precision import float64_device
from ftmech_hf.models.seeding import seeded

ROUNDING = 1e-6
"""Singular values below this share of the largest are the rounding of float32 weights, not a direction of change."""


LARGE = 1024
"""Sides of matrices up to which a decomposition is done as it is."""

LOW_RANK = 64
"""Rank up to which the change of a larger matrix is looked for by random projections, as adapters change one."""


def change_directions(delta: Tensor) -> Tensor:
    """The singular vectors of a change on its shorter side, those of the largest singular values first.

    Of a matrix with both sides above :data:`LARGE` the first :data:`LOW_RANK` at most, by random projections (Halko et
    al., arXiv 0909.4061): all of them where an adapter changed it, and else very nearly the first ones. A decomposition
    takes time by the cube of a side, and of all matrices of a large model hours.

    Args:
        delta: (rows, columns).

    Returns:
        (columns, K) if there are no more columns than rows, else (rows, K); K is the rank, 0 where nothing changed.
    """
    wide = delta.shape[0] < delta.shape[1]
    there = delta.to(float64_device(delta.device))
    if min(delta.shape) > LARGE:
        with seeded(0, there.device):
            left, values, right = torch.svd_lowrank(there.float(), LOW_RANK, niter=4)
        number = int((values > ROUNDING * values[0]).sum())
        return (left if wide else right)[:, :number].to(delta)
    exact = there.double()
    squares, vectors = torch.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
    squares, vectors = squares.flip(0), vectors.flip(1)
    number = int((squares > (ROUNDING * squares[0].clamp(min=0).sqrt()).square()).sum())
    return vectors[:, :number].to(delta.dtype).to(delta.device)


def are_all(delta: Tensor, directions: Tensor) -> bool:
    """Whether these are all directions of a change, and not the first ones of a large matrix."""
    return min(delta.shape) <= LARGE or directions.shape[1] < LOW_RANK


def keep_directions(delta: Tensor, directions: Tensor, number: int) -> Tensor:
    """The part of a change in its first directions: the nearest matrix of that rank (Eckart & Young, 1936).

    Args:
        delta: (rows, columns).
        directions: of it, by :func:`change_directions`.
        number: how many are kept; all there are if it is more.
    """
    kept = directions[:, :number]
    return kept @ (kept.T @ delta) if delta.shape[0] < delta.shape[1] else (delta @ kept) @ kept.T


def turn_at_random(delta: Tensor, generator: torch.Generator, *, axes: tuple[int, ...] | None = None) -> Tensor:
    """A change with the same singular values in other directions; see this module's docstring.

    Args:
        delta: of any shape.
        generator: of the order and the signs, on the CPU.
        axes: which axes are turned; all if not given.
    """
    turned = delta
    for axis in range(delta.ndim) if axes is None else axes:
        size = delta.shape[axis]
        order = torch.randperm(size, generator=generator).to(delta.device)
        signs = (torch.randint(2, (size,), generator=generator) * 2 - 1).to(delta)
        shape = [1] * delta.ndim
        shape[axis] = size
        turned = turned.index_select(axis, order) * signs.view(shape)
    return turned


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (outputs, R) and singular values (R,), largest first, of a matrix in float64.

    Of matrices with both sides above :data:`LARGE`, in one of two ways. If random projections (Halko et al., arXiv
    0909.4061) find all but 1e-12 of the squared norm in :data:`LOW_RANK` directions, those are taken, with values that
    are right to 1e-6 of the largest, and R is that many. Else vectors and values come from the product of the matrix
    with itself, four times as fast as a decomposition; its rounding leaves values right to 1e-7 of the largest.
    """
    if min(matrix.shape) <= LARGE:
        left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
        return left, values
    squared = matrix.square().sum()
    with seeded(0, matrix.device):
        left, values, _ = torch.svd_lowrank(matrix, LOW_RANK, niter=2)
    if squared - values.square().sum() <= 1e-12 * squared:
        return left, values
    is_wide = len(matrix) <= matrix.shape[1]
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T if is_wide else matrix.T @ matrix)
    values, vectors = squares.flip(0).clamp(min=0).sqrt(), vectors.flip(1)
    return vectors if is_wide else matrix @ vectors / values.clamp(min=1e-12 * values[0]), values
