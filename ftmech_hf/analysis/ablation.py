"""How good is the first-order estimate? Importance beside what ablating every unit by itself really does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AgreementResult:
    """How well an estimate of importance agrees with the exact one.

    Attributes:
        rank_correlation: Spearman's, over all units.
        by_group: the same within each group; NaN where one of the two does not vary.
        top_overlap: share of the ``top`` units by the estimate that are among the ``top`` by the exact one.
        top: how many.
        shuffled_correlation: Spearman's after shuffling one of the two, mean size over draws: what chance gives.
        num_units: how many units.
    """

    rank_correlation: float
    by_group: dict[str, float]
    top_overlap: float
    top: int
    shuffled_correlation: float
    num_units: int

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per group."""
        return [{"group": group, "rank_correlation": value} for group, value in self.by_group.items()]

    def summary(self) -> dict[str, Any]:
        """The numbers over all units."""
        return {
            "rank_correlation": self.rank_correlation,
            "shuffled_correlation": self.shuffled_correlation,
            "top_overlap": self.top_overlap,
            "top": self.top,
            "num_units": self.num_units,
        }


def importance_agreement(
    estimate: Mapping[str, Tensor], exact: Mapping[str, Tensor], *, top: int = 15, seed: int = 0, num_shuffles: int = 20
) -> AgreementResult:
    """Compare an estimate of every unit's importance with the exact one.

    Args:
        estimate, exact: group of units -> a number per unit; the same groups and sizes.
        top: how many of the largest are compared as a set.
        seed, num_shuffles: of the chance level.

    Raises:
        ValueError: the groups differ.
    """
    sizes, expected = ({name: len(values) for name, values in each.items()} for each in (estimate, exact))
    if sizes != expected:
        raise ValueError(f"importance: of {sizes} in one, of {expected} in the other; expected the same")
    one, other = (torch.cat([each[name] for name in estimate]).double().numpy() for each in (estimate, exact))
    top = min(top, len(one))
    rng = np.random.default_rng(seed)
    chance = [abs(_spearman(rng.permutation(one), other)) for _ in range(num_shuffles)]
    return AgreementResult(
        rank_correlation=_spearman(one, other),
        by_group={name: _spearman(estimate[name].numpy(), exact[name].numpy()) for name in estimate},
        top_overlap=float(_among_largest(one, top) @ _among_largest(other, top)) / top,
        top=top,
        shuffled_correlation=float(np.mean(chance)),
        num_units=len(one),
    )


def _among_largest(values: NDArray[np.float64], top: int) -> NDArray[np.float64]:
    """How likely each number is among so many of the largest, where ties are broken by chance."""
    cut = np.sort(values)[-top]
    above, tied = values > cut, values == cut
    return above + tied * (top - above.sum()) / tied.sum()


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    from scipy import stats

    return float(stats.spearmanr(one, other).statistic)
