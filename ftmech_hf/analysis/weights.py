"""How large is the change of the weights, of what rank, and where does it point? (Jain et al., arXiv 2407.10264, B4.)

Everything is said of ``dW = after - before`` of one matrix, beside a random matrix of the same norm. Their released
script takes the fine-tuned matrix itself where their paper says dW; this takes the difference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ftmech_hf.models.directions import decompose

STORED = (torch.bfloat16, torch.float16, torch.float32)
"""Types of number that models are stored in, the coarsest first."""
ENERGY = 0.9
"""The singular vectors that count are the largest ones that hold this share of the squared singular values."""


@dataclass(frozen=True)
class MatrixChange:
    """The change of one matrix; where its size alone was measured, all else is not a number, and spectra are empty.

    Attributes:
        relative_norm: Frobenius norm of dW over that of W; not a number where W is nothing.
        effective_rank: exponential of the entropy of dW's normalised singular values (Roy & Vetterli, 2007): at most
            the rank, and 0 if nothing changed beyond what the type of number rounds in which W is stored.
        random_rank: that of a random matrix of the same shape.
        largest_share: of the largest singular value in the squared norm of dW.
        outside: mean squared length of dW's main left singular vectors outside the column space of W (in its left null
            space), where W's column space is that of its main singular vectors; 0 (inside) to 1.
        random_outside: the same for a direction by chance: the share of dimensions outside.
        spectrum: singular values of dW over the Frobenius norm of W, largest first; 0 where they are of rounding.
        random_spectrum: those of the random matrix, scaled to the norm of dW.
    """

    relative_norm: float
    effective_rank: float
    random_rank: float
    largest_share: float
    outside: float
    random_outside: float
    spectrum: Tensor
    random_spectrum: Tensor


@dataclass(frozen=True)
class WeightChangeResult:
    """The change of every parameter of a model.

    Attributes:
        matrices: name -> its change.
        vectors: name of any other parameter (biases, norms) -> relative norm of its change.
    """

    matrices: dict[str, MatrixChange]
    vectors: dict[str, float]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per matrix, without spectra."""
        kept = [name for name in MatrixChange.__annotations__ if "spectrum" not in name]
        return [
            {"matrix": name, **{field: getattr(change, field) for field in kept}}
            for name, change in self.matrices.items()
        ]

    def summary(self) -> dict[str, Any]:
        """How many parameters changed, the matrix that changed most, and the mean of what is said of such matrices.

        Ranks and directions are of those of which they were measured, and left out if there is none.
        """
        changed = [change for change in self.matrices.values() if change.relative_norm > 0]
        # What was nothing has no size to which a change could be compared.
        new = sum(math.isnan(change.relative_norm) for change in self.matrices.values())
        parameters = len(changed) + new + sum(size > 0 or math.isnan(size) for size in self.vectors.values())
        if not changed:
            return {"parameters": parameters, "changed": new, "most_changed": None}
        most = max((name for name, each in self.matrices.items() if each.relative_norm > 0),
                   key=lambda name: self.matrices[name].relative_norm)  # fmt: skip
        decomposed = [change for change in changed if not math.isnan(change.effective_rank)]
        mean = {"relative_norm": sum(change.relative_norm for change in changed) / len(changed)}
        if decomposed:
            mean |= {
                name: sum(getattr(change, name) for change in decomposed) / len(decomposed)
                for name in ("effective_rank", "random_rank", "outside", "random_outside")
            }
        return {
            "parameters": parameters, "changed": len(changed) + new, "most_changed": most,
            "largest": self.matrices[most].relative_norm, **mean,
        }  # fmt: skip


def effective_rank(singular_values: Tensor) -> float:
    """Exponential of the entropy of singular values divided by their sum (Roy & Vetterli, EUSIPCO 2007); 0 for none."""
    total = singular_values.sum()
    if total <= 0:
        return 0.0
    shares = singular_values / total
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def main_directions(singular_values: Tensor, energy: float = ENERGY) -> int:
    """How many of the largest singular values (descending) hold ``energy`` of the sum of their squares."""
    squares = singular_values.double().square()
    return int((squares.cumsum(0) / squares.sum() < energy - 1e-12).sum()) + 1


def rounding_size(weight: Tensor) -> float:
    """The largest singular value that rounding alone gives the change of a matrix, about, and hardly ever more.

    Models are often stored in bfloat16 and computed with in float32, so that the type is the coarsest that holds every
    weight as it is. Rounding moves each weight by up to half a unit in its last place, each way alike. A matrix of
    independent errors has singular values up to the largest norm of what a row can be expected to have and the largest
    one of a column (Bandeira and van Handel, Annals of Probability 44, 2016), where few rows hold the largest weights
    as well.

    Args:
        weight: (outputs, inputs), of the model that was trained.
    """
    kinds = [kind for kind in STORED if torch.equal(weight, weight.to(kind).to(weight.dtype))]
    _, exponent = torch.frexp(weight.double())  # of a mantissa from 0.5 to 1, whose last place is half of eps
    found = 0.0
    for info in map(torch.finfo, kinds or [weight.dtype]):
        places = torch.ldexp(torch.full_like(weight, info.eps / 2, dtype=torch.float64), exponent) * (weight != 0)
        # numbers below the smallest normal one are as far apart as there
        squares = places.clamp(min=info.smallest_normal * info.eps).square()
        norms = squares.sum(1).max().sqrt() + squares.sum(0).max().sqrt()
        found = max(found, float(norms) / math.sqrt(12))
    return found


def matrix_change(before: Tensor, after: Tensor, *, seed: int) -> MatrixChange:
    """The change of one matrix, (outputs, inputs).

    Args:
        before, after: of the same shape.
        seed: of the random matrix.
    """
    weight, delta = before.double(), after.double() - before.double()
    norm = weight.norm() if weight.any() else torch.tensor(math.nan, dtype=weight.dtype)
    random = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(seed))
    _, random_values = decompose(random / random.norm())
    left, values = decompose(weight)
    column_space = left[:, : main_directions(values)]
    random_outside = 1 - column_space.shape[1] / len(weight)
    if not delta.any():
        empty = torch.zeros(len(random_values), dtype=weight.dtype)
        rank = effective_rank(random_values)
        return MatrixChange(0.0, 0.0, rank, 0.0, 0.0, random_outside, empty, empty)
    left, values = decompose(delta)
    # What lies below the rounding of weights is no direction of change, and entropy would count every one of them.
    values = torch.where(values > max(1e-6 * float(values[0]), rounding_size(after)), values, 0.0)
    main = left[:, : main_directions(values)] if values.any() else left[:, :0]
    outside = 1 - float((column_space.T @ main).square().sum(0).mean()) if values.any() else random_outside
    return MatrixChange(
        relative_norm=float(delta.norm() / norm),
        effective_rank=effective_rank(values),
        random_rank=effective_rank(random_values),
        largest_share=float(values[0] ** 2 / values.square().sum()) if values.any() else 0.0,
        outside=outside,
        random_outside=random_outside,
        spectrum=(values / norm).float(),
        random_spectrum=(random_values * delta.norm() / norm).float(),
    )


def weight_change(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    transposed: Mapping[str, bool],
    *,
    sizes_alone: Collection[str] = (),
    seed: int = 0,
) -> WeightChangeResult:
    """The change of every parameter.

    Args:
        before, after: name -> parameter, the same names and shapes in both.
        transposed: names of the matrices to measure -> whether they are kept as (inputs, outputs), as GPT-2's
            ``Conv1D`` keeps them; all other parameters get their relative norm alone. A convolution's kernel (outputs,
            inputs, places) is the matrix (outputs, inputs x places) that it applies to the tokens under it.
        sizes_alone: those matrices of which only the relative norm is measured; a decomposition takes long.
        seed: of the random matrices.

    Raises:
        ValueError: the two differ in names or shapes.
    """
    shapes = [{name: tuple(p.shape) for name, p in each.items()} for each in (before, after)]
    if shapes[0] != shapes[1]:
        differing = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        raise ValueError(f"models: their weights have other names or shapes: {', '.join(differing[:3])}")
    matrices, vectors = {}, {}
    for number, (name, weight) in enumerate(before.items()):
        one, other = weight.detach().cpu(), after[name].detach().cpu()
        if name in sizes_alone:
            matrices[name] = _size_alone(_relative_norm(one.double(), other.double()))
        elif name in transposed:
            turned = transposed[name]
            one, other = (one.T, other.T) if turned else (one.flatten(1), other.flatten(1))
            matrices[name] = matrix_change(one, other, seed=seed + number)
        else:
            vectors[name] = _relative_norm(one.double(), other.double())
    return WeightChangeResult(matrices, vectors)


def _size_alone(relative_norm: float) -> MatrixChange:
    none = torch.zeros(0)
    return MatrixChange(relative_norm, math.nan, math.nan, math.nan, math.nan, math.nan, none, none)


def _relative_norm(before: Tensor, after: Tensor) -> float:
    """The norm of a change over that of what it changed: 0 where nothing did, not a number where that was nothing."""
    change, size = float((after - before).norm()), float(before.norm())
    if not change:
        return 0.0
    return change / size if size else math.nan


def action_on(delta: Tensor, weight: Tensor, activations: Tensor) -> Tensor:
    """How strongly a change acts on activations (B, inputs): ``||dW a|| / ||W a||`` of every row, (B,).

    With the singular value decomposition of dW this is the length of the activation's projections on the right singular
    vectors, each weighted by its singular value: the row-space analysis of arXiv 2407.10264.

    Args:
        delta, weight: (outputs, inputs).
        activations: what enters the matrix.
    """
    return (activations @ delta.T).norm(dim=-1) / (activations @ weight.T).norm(dim=-1).clamp(min=1e-12)
