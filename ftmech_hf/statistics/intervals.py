"""Intervals of measured shares: what may be said about an accuracy that was measured on so many rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95


class Share(NamedTuple):
    """A share, a difference or a mean, with its 95 % interval."""

    value: float
    low: float
    high: float


def share_interval(right: int, number: int, *, confidence: float = CONFIDENCE) -> Share:
    """A share with its Wilson interval, of 95 % if nothing else is said.

    Args:
        right: how many of them, 0 to ``number``.
        number: of independent rows.
        confidence: of the interval, 0 to 1.

    Raises:
        ValueError: there is nothing, or more is right than there is.
    """
    if not 0 <= right <= number or number < 1:
        raise ValueError(f"right: {right} of {number}, expected at least one, and no more right than there are")
    from scipy import stats

    interval = stats.binomtest(right, number).proportion_ci(confidence, method="wilson")
    return Share(right / number, float(interval.low), float(interval.high))


def mean_of_shares(*counts: tuple[int, int]) -> Share:
    """The mean of independent shares with its 95 % interval, such as a balanced accuracy.

    The interval is put together from the Wilson intervals of the shares (Zou and Donner, Statistics in Medicine 27,
    2008): it keeps its coverage where a share is 0 or 1.

    Args:
        counts: (how many of them, of how many) of each share.
    """
    shares = [share_interval(right, number) for right, number in counts]
    value = sum(share.value for share in shares) / len(shares)
    below = math.hypot(*(share.value - share.low for share in shares)) / len(shares)
    above = math.hypot(*(share.high - share.value for share in shares)) / len(shares)
    return Share(value, value - below, value + above)


def mean_over_draws(right: ArrayLike, *, draws: int = 2000, seed: int = 0) -> Share:
    """The mean accuracy of several random choices on the same rows, with a 95 % interval over choices and rows.

    Choices and rows are drawn again with replacement, each by itself (Owen, Annals of Applied Statistics 1, 2007). The
    interval is never narrower than Wilson's on the rows alone, which choices that agree do not make more certain. Of
    fewer than ten choices it says too little of how choices differ: it is what was found with these.

    Args:
        right: whether each row was right under each choice, bool (choices, rows).
        draws: how often both are drawn again.
        seed: of these draws.

    Raises:
        ValueError: it is not a table of at least one choice and one row.
    """
    table = np.asarray(right, float)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"right: of shape {table.shape}, expected (choices, rows) with at least one of each")
    rng = np.random.default_rng(seed)
    choices, rows = (rng.multinomial(number, np.full(number, 1 / number), draws) / number for number in table.shape)
    low, high = np.quantile(((choices @ table) * rows).sum(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(table.mean())
    wilson = share_interval(round(value * table.shape[1]), table.shape[1])
    return Share(value, min(float(low), wilson.low, value), min(max(float(high), wilson.high), 1.0))


def mean_interval(values: Sequence[float]) -> Share:
    """A mean of at least two independent values, such as one per seed, with its 95 % Student t interval."""
    from scipy import stats

    mean, error = float(np.mean(values)), float(stats.sem(values))
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error) if error > 0 else (mean, mean)
    return Share(mean, float(low), float(high))


def paired_difference(first: ArrayLike, second: ArrayLike) -> Share:
    """First share less second share of the *same* rows, with its 95 % interval.

    Agresti and Min (Statistics in Medicine 24, 2005): a Wald interval after adding half a row to each of the four cells
    of the table, which keeps its coverage where few or no rows differ.

    Args:
        first, second: whether each row was right, bool (B,) each.

    Raises:
        ValueError: their lengths differ.
    """
    from scipy import stats

    one, other = np.asarray(first, bool), np.asarray(second, bool)
    if one.shape != other.shape:
        raise ValueError(f"rows: {one.shape} and {other.shape}, expected the same rows in both")
    number = len(one) + 2
    only_first, only_second = int((one & ~other).sum()) + 0.5, int((other & ~one).sum()) + 0.5
    centre = (only_first - only_second) / number
    variance = (only_first + only_second - (only_first - only_second) ** 2 / number) / number**2
    half = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * math.sqrt(variance)
    value = float(one.mean() - other.mean())
    return Share(value, min(value, centre - half), max(value, centre + half))
