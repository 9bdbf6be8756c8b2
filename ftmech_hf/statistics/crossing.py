"""Rows where they decide: a few tell that an accuracy is far from a threshold, many are asked where it is near.

What crosses a threshold is looked at again and again, and every look is a chance to be there by luck. Here a look that
leaves open on which side the accuracy is (Wilson intervals: 99.9 % for what is above, and 95 % for what is below, where
a mistake costs no more than the next look) goes on to more rows, up to :data:`NEAR_ROWS`. With that many, and two looks
in a row (:mod:`ftmech_hf.analysis.revival`), a model that stays at 93 % is taken for one at 95 % in fewer than one run
in a hundred; 512 rows make it one in thirty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ftmech_hf.statistics.intervals import share_interval

NEAR_ROWS = 1024
"""Rows that are asked at most."""

GROWTH = 4
"""How many times as many rows the next look takes."""

ABOVE, BELOW = 0.999, 0.95
"""Confidence of the intervals that must lie above, or below, the threshold for a look to be the last."""


def look_sizes(first: int, most: int = NEAR_ROWS) -> list[int]:
    """Numbers of rows of the looks, from the first on; where that is already ``most`` or more, it is the only one."""
    sizes = [first]
    while sizes[-1] < most:
        sizes.append(min(GROWTH * sizes[-1], most))
    return sizes


def is_clear(right: float, number: int, threshold: float) -> bool:
    """Whether so many right answers of ``number`` leave no doubt on which side of a threshold an accuracy is.

    A sum of scores between 0 and 1 varies no more than so many right answers do.
    """
    if share_interval(round(right), number, confidence=BELOW).high < threshold:
        return True
    return share_interval(round(right), number, confidence=ABOVE).low > threshold


def count_right(right_of: Callable[[slice], float], sizes: Sequence[int], threshold: float | None) -> tuple[float, int]:
    """Look at more and more rows until they tell on which side of a threshold an accuracy is.

    Args:
        right_of: how many of a slice of the rows are right; every row is asked once at most.
        sizes: from :func:`look_sizes`.
        threshold: between 0 and 1; None if there is none, and the first look is the last.

    Returns:
        How many are right, of how many.
    """
    right, number = 0.0, 0
    for size in sizes:
        right, number = right + right_of(slice(number, size)), size
        if threshold is None or is_clear(right, number, threshold):
            break
    return right, number
