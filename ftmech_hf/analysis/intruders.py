"""Which main directions of a fine-tuned matrix does its base have none like? Intruder dimensions.

After Shuttleworth et al. (arXiv 2410.21228): the left singular vector y_j of a fine-tuned matrix is an intruder if
max_i |cos(y_j, x_i)| over all left singular vectors x_i of the base's matrix is below a bar. They come with what a
fine-tuning forgets, and scaling them down brings some of it back. A vector by chance in D dimensions has a largest
cosine of about sqrt(2 ln D / D): 0.47 in 32, 0.21 in 256. So in small matrices directions by chance pass for known
ones, and a count says something beside that of a change turned at random alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ftmech_hf.models.directions import ROUNDING, decompose

BAR = 0.5
"""Cosine below which a direction counts as an intruder, as the paper has it."""

MAIN = 10
"""Singular vectors of a fine-tuned matrix that are looked at, those of the largest values, as in the paper."""


class Intruder(NamedTuple):
    """One intruder dimension of a matrix.

    Attributes:
        number: of its singular value, 0 for the largest.
        value: the singular value.
        cosine: the largest with any singular vector of the base.
        direction: the singular vector in the outputs, (outputs,).
    """

    number: int
    value: float
    cosine: float
    direction: Tensor


@dataclass(frozen=True)
class IntrudersResult:
    """Intruder dimensions of all matrices of a model.

    Attributes:
        matrices: name of a matrix -> its intruders, those of the largest values first.
    """

    matrices: Mapping[str, Sequence[Intruder]]

    @property
    def number(self) -> int:
        """How many there are."""
        return sum(len(each) for each in self.matrices.values())

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per intruder."""
        return [
            {"matrix": name, "number": each.number, "value": each.value, "cosine": each.cosine}
            for name, found in self.matrices.items() for each in found
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """How many there are, and the matrix that has most."""
        most = max(self.matrices, key=lambda name: len(self.matrices[name]), default=None)
        return {"intruders": self.number, "matrix": most if self.number else None}

    def scaled(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """A matrix (outputs, inputs) whose singular values of its intruders are multiplied by ``scale``."""
        if not self.matrices[name]:
            return weight
        directions = torch.stack([each.direction for each in self.matrices[name]], 1).to(weight)
        return weight + (scale - 1) * directions @ (directions.T @ weight)


def find_intruders(
    before: Mapping[str, Tensor], afters: Sequence[Mapping[str, Tensor]], *, bar: float = BAR, main: int = MAIN
) -> list[IntrudersResult]:
    """The intruder dimensions of every matrix of some models, whose base is decomposed once.

    Args:
        before: name -> matrix (outputs, inputs) of the base.
        afters: the same of each model.
        bar: cosine below which a direction is one.
        main: how many of the largest singular vectors of each matrix are looked at.
    """
    found: list[dict[str, list[Intruder]]] = [{} for _ in afters]
    for name, weight in before.items():
        changed = [not torch.equal(weight.to(after[name].device), after[name]) for after in afters]
        known = _known_directions(weight) if any(changed) else None
        for intruders, after, differs in zip(found, afters, changed, strict=True):
            intruders[name] = _unlike(known, after[name], bar, main) if differs and known is not None else []
    return [IntrudersResult(each) for each in found]


def intruders_of(before: Tensor, after: Tensor, *, bar: float = BAR, main: int = MAIN) -> Sequence[Intruder]:
    """The intruder dimensions of one matrix (outputs, inputs)."""
    (found,) = find_intruders({"": before}, [{"": after}], bar=bar, main=main)
    return found.matrices[""]


def _known_directions(weight: Tensor) -> Tensor:
    """Left singular vectors (outputs, R) of a matrix, but for those of its rounding."""
    known, sizes = decompose(weight.detach().cpu().double())
    return known[:, sizes > ROUNDING * sizes[0]]


def _unlike(known: Tensor, after: Tensor, bar: float, main: int) -> list[Intruder]:
    """The main directions of a matrix that are like none of the known ones."""
    left, values = decompose(after.detach().cpu().double())
    if not known.shape[1]:  # a base that is nothing has no directions
        known = torch.zeros(len(left), 1, dtype=left.dtype)
    cosines = (known.T @ left[:, :main]).abs().amax(0)
    return [
        Intruder(number, float(values[number]), float(cosine), left[:, number].float())
        for number, cosine in enumerate(cosines) if cosine < bar and values[number] > ROUNDING * values[0]
    ]  # fmt: skip
