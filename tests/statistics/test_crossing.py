from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from ftmech_hf.statistics.crossing import NEAR_ROWS, count_right, is_clear, look_sizes


def test_looks_grow_up_to_the_most_rows() -> None:
    assert look_sizes(64) == [64, 256, 1024]
    assert look_sizes(100, 1000) == [100, 400, 1000]
    assert look_sizes(NEAR_ROWS) == [NEAR_ROWS]
    assert look_sizes(5000) == [5000]


def test_what_is_clear() -> None:
    """By Wilson's formula, of 64 rows all right begin at 64 / (64 + 3.2905^2) = 0.855 (99.9 %), and none right end at
    1.96^2 / (64 + 1.96^2) = 0.057 (95 %).
    """
    assert is_clear(64, 64, 0.85)
    assert not is_clear(64, 64, 0.86)
    assert is_clear(0, 64, 0.06)
    assert not is_clear(0, 64, 0.05)
    assert not is_clear(61, 64, 0.95)
    assert is_clear(45, 64, 0.95)


@pytest.mark.parametrize(
    ("percent", "asked"), [(0, 64), (50, 64), (85, 64), (93, 1024), (95, 1024), (96, 1024), (100, 256)]
)
def test_many_rows_are_asked_only_near_the_threshold(percent: int, asked: int) -> None:
    right = np.arange(1024) * percent % 100 + percent >= 100  # spread evenly
    seen: list[slice] = []

    def right_of(at: slice) -> int:
        seen.append(at)
        return int(right[at].sum())

    found, number = count_right(right_of, look_sizes(64), 0.95)
    assert (found, number) == (right[:asked].sum(), asked)
    assert [step for at in seen for step in range(1024)[at]] == list(range(asked))  # none twice


def test_without_a_threshold_the_first_look_is_the_last() -> None:
    right: NDArray[np.bool_] = np.arange(1024) % 20 > 0
    read: Callable[[slice], int] = lambda at: int(right[at].sum())  # noqa: E731
    assert count_right(read, [64, 256], None) == (60, 64)
    assert count_right(read, [64], 0.95) == (60, 64)
