"""Intervals of measured shares: what may be said about an accuracy that was measured on so many rows.

All are of 95 %, and a test simulates how often each of them covers the truth. Rows that belong together are in
:mod:`ftmech_hf.statistics.clusters`, random choices in :mod:`ftmech_hf.statistics.draws`, seeds in
:mod:`ftmech_hf.statistics.seeds`.
"""

from __future__ import annotations

import math
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
        """The same with both ends so many times as far away, and within bounds; see
        :func:`ftmech_hf.statistics.clusters.times_as_wide`."""
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


def mean_interval(values: Sequence[float]) -> Share:
    """A mean of independent values, such as one per seed, with its 95 % Student t interval; open for a single one."""
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    if len(values) < 2:
        return Share(mean, -math.inf, math.inf)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * error
    return Share(mean, mean - half, mean + half)


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
