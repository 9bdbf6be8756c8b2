"""How alike are the representations of two models? Linear CKA (Kornblith et al., arXiv 1905.00414), debiased.

The plain estimator is far above zero for unrelated representations when rows are few beside the width; with the
unbiased HSIC (Song et al., JMLR 13, 2012; Nguyen et al., arXiv 2010.15327) unrelated ones come out at zero on average.
The control pairs every row of the one model with another row of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SimilarityResult:
    """How alike two models' representations are at every site, and what unrelated rows give.

    Attributes:
        cka: site -> linear CKA, 1 for the same up to rotation and scale; not a number where a model does not vary.
        halves: site -> the same on either half of the rows.
        shuffled: site -> the same with the rows of one model in another order.
    """

    cka: dict[str, float]
    halves: dict[str, tuple[float, float]]
    shuffled: dict[str, float]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per site."""
        return [
            {"site": site, "cka": value, "first_half": self.halves[site][0], "second_half": self.halves[site][1],
             "shuffled": self.shuffled[site]}
            for site, value in self.cka.items()
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The site that changed most and its CKA."""
        site = min(self.cka, key=lambda name: math.inf if math.isnan(self.cka[name]) else self.cka[name])
        return {"most_changed": site, "cka": self.cka[site]}


def unbiased_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion of two Gram matrices (B, B), B at least 4."""
    number = len(first)
    one, other = (gram - torch.diag(torch.diag(gram)) for gram in (first, second))
    trace = (one * other).sum()
    sums = one.sum() * other.sum() / ((number - 1) * (number - 2))
    cross = 2 * (one.sum(0) @ other.sum(0)) / (number - 2)
    return (trace + sums - cross) / (number * (number - 3))


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Debiased linear CKA of two models' activations of the same rows, (B, D) and (B, E).

    Returns:
        1 for the same representation up to rotation, scale and shift, about 0 for unrelated ones (it can be a little
        below); not a number where one of them is the same for all rows.

    Raises:
        ValueError: other numbers of rows, or fewer than 4.
    """
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(f"rows: {len(first)} and {len(second)}, expected as many of both, at least 4")
    wholes = [values.double() for values in (first, second)]
    centred = [values - values.mean(0) for values in wholes]
    sizes = ([float(each.abs().max()) for each in pair] for pair in zip(centred, wholes, strict=True))
    if any(left <= 1e-6 * size for left, size in sizes):
        return math.nan  # what is left of a constant is how it is rounded
    grams = [values @ values.T for values in centred]
    own = [unbiased_hsic(gram, gram) for gram in grams]
    return float(unbiased_hsic(*grams) / (own[0] * own[1]).sqrt()) if min(own) > 0 else math.nan


def compare_representations(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], *, seed: int
) -> SimilarityResult:
    """CKA of two models at every site.

    Args:
        first, second: site -> activations of the same rows (B, D).
        seed: of the control's order.

    Raises:
        ValueError: the two have different sites, or other numbers of rows, or fewer than 8.
    """
    if list(first) != list(second):
        raise ValueError(f"sites: {list(first)} and {list(second)}, expected the same")
    number = len(next(iter(first.values())))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    others = torch.empty_like(order)
    others[order] = order.roll(1)  # each row's is another one
    half = number // 2
    return SimilarityResult(
        {site: linear_cka(first[site], second[site]) for site in first},
        {
            site: (
                linear_cka(first[site][:half], second[site][:half]),
                linear_cka(first[site][half:], second[site][half:]),
            )
            for site in first
        },
        {site: linear_cka(first[site], second[site][others]) for site in first},
    )
