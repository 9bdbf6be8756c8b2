"""Intervals of measured shares: what may be said about an accuracy that was measured on so many rows.

All are of 95 %, and a test simulates how often each of them covers the truth. Seeds are in
:mod:`ftmech_hf.statistics.seeds`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
FEW = 16
"""Up to so many right or wrong answers the normal approximation behind Wilson's interval is helped out."""


class Share(NamedTuple):
    """A share, a difference or a mean, with its 95 % interval."""

    value: float
    low: float
    high: float

    def widened(self, times: float, least: float = -math.inf, most: float = math.inf) -> Share:
        """The same with both ends so many times as far away, and within bounds; see :func:`times_as_wide`."""
        low, high = (self.value + times * (end - self.value) for end in (self.low, self.high))
        return Share(self.value, max(least, low), min(most, high))


def share_bounds(
    right: ArrayLike, number: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of :func:`share_interval` for many shares at once."""
    from scipy.special import gammaincinv, ndtri  # scipy.stats has them too, and takes a second to load

    counts, of = np.broadcast_arrays(np.asarray(right, float), np.asarray(number, float))
    squared = float(ndtri(0.5 + confidence / 2)) ** 2
    share = counts / of
    centre = (share + squared / 2 / of) / (1 + squared / of)
    half = np.sqrt(squared * (share * (1 - share) / of + squared / 4 / of**2)) / (1 + squared / of)
    ends = []
    for few, wilson in ((counts, centre - half), (of - counts, 1 - centre - half)):
        poisson = gammaincinv(np.maximum(few, 0.5), 1 - confidence) / of  # half a quantile of chi squared
        ends.append(np.where((few >= 1) & (few <= np.minimum(FEW, of / 2)), np.minimum(wilson, poisson), wilson))
    return np.clip(ends[0], 0, share), np.clip(1 - ends[1], share, 1)


def share_interval(right: int, number: int, *, confidence: float = CONFIDENCE) -> Share:
    """A share with its interval, of 95 % if nothing else is said: Wilson's, wider where few are right or few are wrong.

    Wilson's covers a share of 0.175 / n in only 84 of 100 cases. Where at most :data:`FEW` are right, the lower end is
    that of a Poisson count if it is lower, and the upper end where at most that many are wrong (Brown, Cai and
    DasGupta, Statistical Science 16, 2001, who do so for 3). Coverage is then 93 % or more for every share of 40 rows
    and more, and 96 to 97 % on average: counts are whole, so that no interval has 95 % everywhere.

    Args:
        right: how many of them, 0 to ``number``.
        number: of independent rows.
        confidence: of the interval, 0 to 1.

    Raises:
        ValueError: there is nothing, or more is right than there is.
    """
    if not 0 <= right <= number or number < 1:
        raise ValueError(f"right: {right} of {number}, expected at least one, and no more right than there are")
    low, high = share_bounds(right, number, confidence=confidence)
    return Share(right / number, float(low), float(high))


def mean_of_shares(*counts: tuple[int, int]) -> Share:
    """The mean of independent shares with its 95 % interval, such as a balanced accuracy.

    The interval is put together from those of the shares (Zou and Donner, Statistics in Medicine 27, 2008): it keeps
    its coverage where a share is 0 or 1.

    Args:
        counts: (how many of them, of how many) of each share.
    """
    shares = [share_interval(right, number) for right, number in counts]
    value = sum(share.value for share in shares) / len(shares)
    below = math.hypot(*(share.value - share.low for share in shares)) / len(shares)
    above = math.hypot(*(share.high - share.value for share in shares)) / len(shares)
    return Share(value, value - below, value + above)


def difference_of_shares(first: tuple[int, int], second: tuple[int, int]) -> Share:
    """First share less second share, of different rows, with its 95 % interval (Newcombe, Stat. in Medicine 17, 1998).

    Of the same rows it is too wide; :func:`paired_difference` is for those, if it is known which were right.

    Args:
        first, second: (how many of them, of how many).
    """
    return newcombe_difference(share_interval(*first), share_interval(*second))


def newcombe_difference(one: Share, other: Share) -> Share:
    """One share less an independent other, with the interval that Newcombe puts together from their own."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Share(value, value - below, value + above)


def mean_over_draws(right: ArrayLike) -> Share:
    """The mean accuracy of several random choices on the same rows, with a 95 % interval over choices and rows.

    Both are a sample: the variance is that of the choices' accuracies and of the rows' (crossed random effects, with
    Satterthwaite's degrees of freedom), on the logit scale. The interval is never narrower than that of the rows alone,
    which choices that agree do not make more certain. From ten choices on it covers the truth as often as it says,
    where choices differ from each other as a bell curve does; where one in twenty does something and all others
    nothing, ten of them (or thirty) do not know of that one, and it covers the truth in 38 (74) of 100 cases.

    Args:
        right: whether each row was right under each choice, bool (choices, rows).

    Raises:
        ValueError: it is not a table of at least one choice and one row.
    """
    table = np.asarray(right, float)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"right: of shape {table.shape}, expected (choices, rows) with at least one of each")
    rows = table.shape[1]
    value = float(table.mean())
    alone = share_interval(round(value * rows), rows)
    low, high = min(alone.low, value), max(alone.high, value)
    if 0 < value < 1:
        half = _half_of_crossed(table) / (value * (1 - value))
        centre = math.log(value / (1 - value))
        low, high = min(low, _sigmoid(centre - half)), max(high, _sigmoid(centre + half))
    return Share(value, low, high)


def difference_over_draws(right: ArrayLike, plain: ArrayLike) -> Share:
    """The mean accuracy of several random choices less that of no choice on the *same* rows, with a 95 % interval.

    It is over choices and rows as that of :func:`mean_over_draws`, of what each row gains under each choice, and never
    narrower than that of the rows alone: of choices that agree that of :func:`paired_difference`. From eight choices on
    it covers the truth as often as it says, on the condition that :func:`mean_over_draws` names.

    Args:
        right: whether each row was right under each choice, bool (choices, rows).
        plain: whether it is right without, bool (rows,).

    Raises:
        ValueError: it is not a table of at least one choice and one row, or of other rows.
    """
    table, before = np.asarray(right, bool), np.asarray(plain, bool)
    if table.ndim != 2 or not table.size or table.shape[1:] != before.shape:
        raise ValueError(f"right: of shape {table.shape}, expected (choices, {before.size}) with at least one of each")
    gains = table.astype(float) - before
    value, alone = float(gains.mean()), mean_of_gains(gains.mean(0))
    half = _half_of_crossed(gains)
    return Share(value, max(-1.0, min(alone.low, value - half)), min(1.0, max(alone.high, value + half)))


def _half_of_crossed(table: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of a mean over (choices, rows), both of them random; 0 where there is one of either."""
    from scipy.special import stdtrit

    choices, rows = table.shape
    if min(table.shape) < 2:
        return 0.0
    of_choices, of_rows = float(table.mean(1).var(ddof=1)) / choices, float(table.mean(0).var(ddof=1)) / rows
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    both = float((rest**2).sum()) / ((choices - 1) * (rows - 1)) / table.size  # is in each of the two
    variance = max(of_choices + of_rows - both, of_choices, of_rows)
    if variance <= 0:
        return 0.0
    freedom = variance**2 / (of_choices**2 / (choices - 1) + of_rows**2 / (rows - 1))
    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(variance)


def _sigmoid(logit: float) -> float:
    return 0.5 + 0.5 * math.tanh(logit / 2)


def mean_interval(values: Sequence[float]) -> Share:
    """A mean of independent values, such as one per seed, with its 95 % Student t interval; open for a single one."""
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    if len(values) < 2:
        return Share(mean, -math.inf, math.inf)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * error
    return Share(mean, mean - half, mean + half)


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


def widened_by_clusters(share: Share, counted: Sequence[bool], clusters: Sequence[object]) -> Share:
    """A share with an interval that is as much wider as what is counted is alike within clusters.

    Where all is counted, or nothing, nothing tells how alike it is, and what is known is that there are few clusters:
    the interval is that of as many values as leave Student's t of the clusters as wide as that of all values (Korn and
    Graubard, Survey Methodology 24, 1998, as the standards of the US National Center for Health Statistics have it for
    shares of 0 and 1). None of 82 in 5 clusters is 0 to 8.4 %, one of them 0 to 8.7 %; taken for independent they would
    be 0 to 4.5 %. Where the members of a cluster are all right or all wrong together it still is too narrow. With one
    cluster it stays as it is.

    Args:
        share: of what is counted, as :func:`share_interval` has it.
        counted: whether each is, (B,).
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


def geometric_mean_interval(values: Sequence[float]) -> Share:
    """The geometric mean of positive values, such as ratios, with its 95 % interval: Student's t on the logarithm."""
    return Share(*(math.exp(end) for end in mean_interval([math.log(value) for value in values])))


def paired_difference(first: ArrayLike, second: ArrayLike) -> Share:
    """First share less second share of the *same* rows, with its 95 % interval.

    Agresti and Min (Statistics in Medicine 24, 2005): a Wald interval after adding half a row to each of the four cells
    of the table, which keeps its coverage where few or no rows differ.

    Args:
        first, second: whether each row was right, or how right from 0 to 1, (B,) each.

    Raises:
        ValueError: their lengths differ, or there are none.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if one.shape != other.shape or not one.size:
        raise ValueError(f"rows: {one.shape} and {other.shape}, expected the same rows in both, at least one")
    return mean_of_gains(one - other)


def mean_of_gains(gains: NDArray[np.float64]) -> Share:
    """The mean of what rows gain with its 95 % interval, as :func:`paired_difference` has it, which is never 0 wide.

    Half a row more gains all, half a row loses all, and one gains nothing.

    Args:
        gains: of each row, from -1 to 1, (B,).
    """
    from scipy.special import ndtri

    number, total = len(gains) + 2, float(gains.sum())
    variance = (float((gains**2).sum()) + 1 - total**2 / number) / number**2
    half = float(ndtri(0.5 + CONFIDENCE / 2)) * math.sqrt(variance)
    value, centre = total / len(gains), total / number
    return Share(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))
