"""How far apart does a model hold two kinds of prompts? Cluster separation (Jain et al., arXiv 2407.10264).

With the means of both kinds, ``tau(x) = ||a(x) - mean of the other kind|| - ||a(x) - mean of its own kind||``: positive
on its own side. Deviations: their means come from the rows that are then measured, which makes tau positive for any two
kinds; here from the other half of them. And theirs is the mean over ten positions of an output, here the one position
that predicts the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.statistics.clusters import Groups, groups_at, halves_of_rows, share_right

LEAST_ROWS = 4
"""Of each kind: two that its mean is of, and two that are measured."""
LEAST_DEALT = 8
"""Groups: fewer are dealt to two kinds by chance much as they lie in them, and the control's rows are dealt alone."""

Places = NDArray[np.intp]


@dataclass(frozen=True)
class SeparationResult:
    """How far apart two kinds of prompts are at every site, and what chance gives.

    Attributes:
        tau: site -> tau of every measured row of both kinds, (B,), in units of the activations.
        scale: site -> mean distance of a row from its own kind's mean, to compare models of other scales.
        shuffled: site -> mean tau when the kinds are assigned by chance.
        groups: what each measured row is about, (B,); None where each is by itself.
    """

    tau: dict[str, Tensor]
    scale: dict[str, float]
    shuffled: dict[str, float]
    groups: Groups = None

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per site; ``tau`` and ``shuffled`` in units of ``scale``."""
        table = []
        for site, values in self.tau.items():
            unit = self.scale[site] or 1.0
            right = share_right((values > 0).cpu().numpy(), self.groups)
            table.append(
                {"site": site, "tau": float(values.mean()) / unit, "deviation": float(values.std()) / unit,
                 "own_side": right.value, "own_side_low": right.low, "own_side_high": right.high,
                 "shuffled": self.shuffled[site] / unit}
            )  # fmt: skip
        return table

    def summary(self) -> dict[str, Any]:
        """The site that separates best."""
        best = max(self.rows(), key=lambda row: row["tau"])
        return {"best_site": best["site"], "tau": best["tau"], "own_side": best["own_side"]}


def cluster_tau(first: Tensor, second: Tensor, groups: tuple[Groups, Groups] = (None, None)) -> tuple[Tensor, float]:
    """(tau of the second halves of both kinds, mean distance from the own mean); means from the first halves.

    Of the larger kind only as many rows are taken as there are of the smaller: the mean of fewer is less sure, so that
    rows of the larger kind would lie on their own side where nothing separates the two. No group has rows in both
    halves, if its kind has more than one: a row is near the mean of rows that are about the same.

    Args:
        first, second: activations of the two kinds, (B, D) and (C, D), in random order.
        groups: what each row of the one kind is about, (B,), and of the other, (C,); None where each is by itself.

    Raises:
        ValueError: there are fewer than four of one kind.
    """
    parts = _parts(len(first), len(second), groups)
    halves = [
        [values[torch.from_numpy(rows)] for rows in part] for values, part in zip((first, second), parts, strict=True)
    ]
    means = [fitted.mean(0) for fitted, _ in halves]
    taus, own = [], []
    for number, (_, measured) in enumerate(halves):
        near, far = ((measured - means[which]).norm(dim=-1) for which in (number, 1 - number))
        taus.append(far - near)
        own.append(near)
    return torch.cat(taus), float(torch.cat(own).mean())


def _parts(first: int, second: int, groups: tuple[Groups, Groups]) -> list[tuple[Places, Places]]:
    """Of each of two kinds with so many rows, those that its mean is of and those that are measured."""
    number = min(first, second)
    if number < LEAST_ROWS:
        raise ValueError(f"rows: {first} and {second} of the two kinds, expected {LEAST_ROWS} or more")
    rows = np.arange(number)
    return [
        (rows[: number // 2], rows[number // 2 :]) if about is None else halves_of_rows(number, about[:number])
        for about in groups
    ]


def cluster_separation(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    *,
    groups: tuple[Groups, Groups] = (None, None),
    seed: int,
) -> SeparationResult:
    """Tau of two kinds of prompts at every site.

    Args:
        first, second: site -> activations of the one kind (B, D) and of the other (C, D), each in random order.
        groups: of :func:`cluster_tau`. Groups are dealt to the control's kinds whole, where there are enough of them.
        seed: of the control's kinds.

    Raises:
        ValueError: the two have different sites, or groups are not of their rows.
    """
    if list(first) != list(second):
        raise ValueError(f"sites: {list(first)} and {list(second)}, expected the same")
    sizes = [len(values) for kind in (first, second) for values in list(kind.values())[:1]]
    members = _members(sizes, groups)
    tau, scale, shuffled = {}, {}, {}
    for site, values in first.items():
        tau[site], scale[site] = cluster_tau(values, second[site], groups)
        both = torch.cat([values, second[site]])
        ones, others = _dealt(len(both), members, seed)
        about = (groups_at(members, ones.numpy()), groups_at(members, others.numpy()))
        shuffled[site] = float(cluster_tau(both[ones], both[others], about)[0].mean())
    if members is None:
        return SeparationResult(tau, scale, shuffled)
    (_, one), (_, other) = _parts(sizes[0], sizes[1], groups)
    return SeparationResult(tau, scale, shuffled, np.concatenate([members[one], members[sizes[0] + other]]))


def _members(sizes: Sequence[int], groups: tuple[Groups, Groups]) -> Groups:
    """What each row of both kinds is about, those of the first before those of the second, which share none."""
    if not sizes or (groups[0] is None and groups[1] is None):
        return None
    found: list[NDArray[np.integer]] = []
    for number, about in zip(sizes, groups, strict=True):
        if about is not None and len(about) != number:
            raise ValueError(f"groups: of {len(about)} rows, expected those of all {number}")
        _, member = np.unique(np.arange(number) if about is None else about, return_inverse=True)
        found.append(member + sum(sizes) * len(found))
    return np.concatenate(found)


def _dealt(number: int, members: Groups, seed: int) -> tuple[Tensor, Tensor]:
    """The rows of two kinds by chance."""
    generator = torch.Generator().manual_seed(seed)
    if members is not None and len(units := np.unique(members)) >= LEAST_DEALT:
        drawn = units[torch.randperm(len(units), generator=generator).numpy()[: len(units) // 2]]
        inside = torch.from_numpy(np.isin(members, drawn))
        ones, others = (each.nonzero()[:, 0] for each in (inside, ~inside))
        if min(len(ones), len(others)) >= LEAST_ROWS:
            ones, others = (each[torch.randperm(len(each), generator=generator)] for each in (ones, others))
            return ones, others
    order = torch.randperm(number, generator=generator)
    return order[: number // 2], order[number // 2 :]


def side_of(rows: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, float]:
    """(tau of each row, (B,), the mean distance of both kinds' rows from their own mean).

    Tau is the distance from the second kind's mean less that from the first kind's: positive on the side of the first.

    Args:
        rows: activations (B, D) of any kind, none of them among those of which the means are.
        first, second: activations of the two kinds, (C, D) and (E, D).
    """
    means = [each.mean(0) for each in (first, second)]
    near, far = ((rows - mean).norm(dim=-1) for mean in means)
    own = torch.cat([(each - mean).norm(dim=-1) for each, mean in zip((first, second), means, strict=True)])
    return far - near, float(own.mean())
