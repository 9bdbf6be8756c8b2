"""Intervals of rows that belong together: questions about one thing, pairs of one base.

What is alike within a group says less than as many independent rows would.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftmech_hf.statistics.intervals import (
    CONFIDENCE,
    Share,
    mean_interval,
    paired_difference,
    share_bounds,
    share_interval,
)

Groups = NDArray[np.integer] | None
"""What each row is about, (B,); None where each is by itself."""


def times_as_wide(values: ArrayLike, clusters: ArrayLike) -> float:
    """How many times as wide the 95 % interval of a mean becomes where values of one cluster are alike; at least 1.

    The ratio of the half widths by the variance between clusters and by that of single values. The former is that of
    leaving out one cluster at a time, which of clusters of one size is that of Liang and Zeger (Biometrika 73, 1986) of
    a mean; with Student's t over as many clusters as their sizes are worth (Kish: the square of the sum over the sum of
    squares), so that one large cluster is not taken for many. Where all values are the same, nothing is known of how
    alike they are, and each cluster counts as one value; of a single cluster the interval is open.

    Args:
        values: (B,).
        clusters: of each value what it belongs to, (B,); order does not matter.
    """
    given = np.asarray(values, float)
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    number, groups = len(given), int(member.max(initial=-1)) + 1
    if groups == number:
        return 1.0
    if groups < 2:
        return math.inf
    size, sums = np.bincount(member), np.bincount(member, given)
    worth = number**2 / float((size**2).sum())
    alone = float(((given - given.mean()) ** 2).sum()) / (number * (number - 1))
    if alone == 0:
        return math.sqrt(number / worth)
    left_out = (given.sum() - sums) / (number - size)
    together = (groups - 1) / groups * float(((left_out - given.mean()) ** 2).sum())
    return max(1.0, math.sqrt(together / alone) * _students(worth) / _students(number))


def _students(number: float) -> float:
    """Half of the 95 % interval of a mean of so many values, in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1.0, number - 1), 0.5 + CONFIDENCE / 2))


def widened_by_clusters(share: Share, counted: Sequence[float], clusters: Sequence[object]) -> Share:
    """A share with an interval that is as much wider as what is counted is alike within clusters.

    Where all is counted, or nothing, nothing tells how alike it is, and what is known is that there are few clusters:
    the interval is that of as many values as leave Student's t of the clusters as wide as that of all values (Korn and
    Graubard, Survey Methodology 24, 1998, as the standards of the US National Center for Health Statistics have it for
    shares of 0 and 1). None of 82 in 5 clusters is 0 to 8.4 %, one of them 0 to 8.7 %; taken for independent they would
    be 0 to 4.5 %. Where the members of a cluster are all right or all wrong together it still is too narrow. With one
    cluster it stays as it is.

    Args:
        share: of what is counted, as :func:`share_interval` has it.
        counted: whether each is, or how much of it from 0 to 1, (B,).
        clusters: what each belongs to, (B,).
    """
    sizes = list(Counter(clusters).values())
    if len(sizes) < 2:
        return share
    if len(set(counted)) < 2:
        number, worth = len(counted), sum(sizes) ** 2 / sum(size**2 for size in sizes)
        known = number * (_students(number) / _students(worth)) ** 2
        low, high = share_bounds(share.value * known, known)
        return Share(share.value, float(low), float(high))
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    return share.widened(times_as_wide(counted, [numbers[each] for each in clusters]), 0.0, 1.0)


def groups_at(groups: Groups, rows: slice | Sequence[int] | NDArray[np.integer]) -> Groups:
    """What some of the rows are about, by their places; None where each is by itself."""
    return None if groups is None else groups[rows]


def is_one_group(groups: Groups) -> bool:
    """Whether all rows are about one thing, of which nothing is known of others: an interval is open."""
    return groups is not None and len(np.unique(groups)) < 2


def halves_of_rows(number: int, groups: Groups = None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Two halves of rows by their places, one to choose on and one to report on: every other row, or group of rows.

    Rows of one group in both would be told of what they are chosen by. Groups are taken in the order in which they
    come, each into the half that has fewer rows; a single one is parted as rows are.

    Args:
        number: of the rows.
        groups: what each is about, (number,); None where each is by itself.
    """
    if groups is None or is_one_group(groups):
        return np.arange(0, number, 2), np.arange(1, number, 2)
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    halves: tuple[list[int], list[int]] = ([], [])
    for rows in members.values():
        min(halves, key=len).extend(rows)
    first, second = (np.array(sorted(half), np.intp) for half in halves)
    return first, second


def share_right(right: NDArray[np.bool_], groups: Groups = None) -> Share:
    """The share of rows that are right, with its interval; wider where those of a group are alike, if there are groups.

    Of a single group the interval is open: how another would be answered is not known.

    Args:
        right: whether each row is, (B,).
        groups: what each row is about, (B,); None where each is by itself.
    """
    share = share_interval(round(float(right.sum())), len(right))
    if is_one_group(groups):
        return Share(share.value, 0.0, 1.0)
    return share if groups is None else widened_by_clusters(share, right.tolist(), groups.tolist())


def mean_of_rows(values: ArrayLike, groups: Groups = None) -> Share:
    """The mean of one value a row as :func:`mean_interval` has it, wider where rows of a group are alike."""
    given = np.asarray(values, float)
    mean = mean_interval(given.tolist())
    return mean if groups is None else mean.widened(times_as_wide(given, groups))


def paired_lead(first: ArrayLike, second: ArrayLike, groups: Groups) -> Share:
    """First share less second one as :func:`paired_difference` has it, wider where rows of a group are alike."""
    lead = paired_difference(first, second)
    if groups is None:
        return lead
    return lead.widened(times_as_wide(np.asarray(first, float) - np.asarray(second, float), groups), -1.0, 1.0)
