"""Intervals of what several random choices give on the same rows: masks, directions, noise.

Choices are a sample as rows are, so that both are in the interval.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftmech_hf.statistics.clusters import Groups, is_one_group, times_as_wide, widened_by_clusters
from ftmech_hf.statistics.intervals import CONFIDENCE, Share, mean_of_gains, share_interval


def mean_over_draws(right: ArrayLike, groups: Groups = None) -> Share:
    """The mean accuracy of several random choices on the same rows, with a 95 % interval over choices and rows.

    Both are a sample: the variance is that of the choices' accuracies and of the rows' (crossed random effects, with
    Satterthwaite's degrees of freedom), on the logit scale. The interval is never narrower than that of the rows alone,
    which choices that agree do not make more certain. From ten choices on it covers the truth as often as it says,
    where choices differ from each other as a bell curve does; where one in twenty does something and all others
    nothing, ten of them (or thirty) do not know of that one, and it covers the truth in 38 (74) of 100 cases.

    Args:
        right: whether each row was right under each choice, bool (choices, rows).
        groups: what each row is about, (rows,), where those of one group are alike: the interval is as much wider.

    Raises:
        ValueError: it is not a table of at least one choice and one row.
    """
    table = np.asarray(right, float)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"right: of shape {table.shape}, expected (choices, rows) with at least one of each")
    rows = table.shape[1]
    value = float(table.mean())
    if is_one_group(groups):
        return Share(value, 0.0, 1.0)
    alone = share_interval(round(value * rows), rows)
    if groups is not None:
        alone = _widened(alone, table.mean(0), groups)
    low, high = min(alone.low, value), max(alone.high, value)
    if 0 < value < 1:
        half = _half_of_crossed(table, groups) / (value * (1 - value))
        centre = math.log(value / (1 - value))
        low, high = min(low, _sigmoid(centre - half)), max(high, _sigmoid(centre + half))
    return Share(value, low, high)


def difference_over_draws(right: ArrayLike, plain: ArrayLike, groups: Groups = None) -> Share:
    """The mean accuracy of several random choices less that of no choice on the *same* rows, with a 95 % interval.

    It is over choices and rows as that of :func:`mean_over_draws`, of what each row gains under each choice, and never
    narrower than that of the rows alone: of choices that agree that of :func:`paired_difference`. From eight choices on
    it covers the truth as often as it says, on the condition that :func:`mean_over_draws` names.

    Args:
        right: whether each row was right under each choice, bool (choices, rows).
        plain: whether it is right without, bool (rows,).
        groups: what each row is about, (rows,), as in :func:`mean_over_draws`.

    Raises:
        ValueError: it is not a table of at least one choice and one row, or of other rows.
    """
    table, before = np.asarray(right, bool), np.asarray(plain, bool)
    if table.ndim != 2 or not table.size or table.shape[1:] != before.shape:
        raise ValueError(f"right: of shape {table.shape}, expected (choices, {before.size}) with at least one of each")
    gains = table.astype(float) - before
    by_row = gains.mean(0)
    value, alone = float(gains.mean()), mean_of_gains(by_row)
    if is_one_group(groups):
        return Share(value, -1.0, 1.0)
    if groups is not None:
        alone = alone.widened(times_as_wide(by_row, groups))
    half = _half_of_crossed(gains, groups)
    return Share(value, max(-1.0, min(alone.low, value - half)), min(1.0, max(alone.high, value + half)))


def _widened(share: Share, by_row: NDArray[np.float64], groups: NDArray[np.integer]) -> Share:
    """The interval of a share of rows that are right under a part of the choices each, wider by what groups share."""
    if not 0 < share.value < 1:
        return widened_by_clusters(share, by_row.tolist(), groups.tolist())
    # rows that are right under some choices differ less than the right and wrong ones that the interval is made of
    less = math.sqrt(float(by_row.var()) / (share.value * (1 - share.value)))
    return share.widened(max(1.0, less * times_as_wide(by_row, groups)), 0.0, 1.0)


def _half_of_crossed(table: NDArray[np.float64], groups: Groups) -> float:
    """Half of the 95 % interval of a mean over (choices, rows), both of them random; 0 where there is one of either.

    Rows of one group stand for themselves and for one row together, whichever is less certain.
    """
    half = _half_of_columns(table, table.shape[1])
    if groups is None:
        return half
    _, member, size = np.unique(groups, return_inverse=True, return_counts=True)
    off = np.zeros((len(table), len(size)))
    np.add.at(off.T, member, (table - table.mean()).T)  # of groups of several sizes: their share of what is off
    worth = table.shape[1] ** 2 / float((size**2).sum())
    return max(half, _half_of_columns(off * len(size) / table.shape[1], worth))


def _half_of_columns(table: NDArray[np.float64], worth: float) -> float:
    """The same of columns that are as certain as ``worth`` equal ones."""
    from scipy.special import stdtrit

    choices, columns = table.shape
    if min(table.shape) < 2:
        return 0.0
    of_choices, of_columns = float(table.mean(1).var(ddof=1)) / choices, float(table.mean(0).var(ddof=1)) / columns
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    both = float((rest**2).sum()) / ((choices - 1) * (columns - 1)) / table.size  # is in each of the two
    variance = max(of_choices + of_columns - both, of_choices, of_columns)
    if variance <= 0:
        return 0.0
    freedom = variance**2 / (of_choices**2 / (choices - 1) + of_columns**2 / max(worth - 1, 1.0))
    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(variance)


def _sigmoid(logit: float) -> float:
    return 0.5 + 0.5 * math.tanh(logit / 2)
