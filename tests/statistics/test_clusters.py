"""Rows that belong together: halves that share no group, and one group of which nothing follows for others."""

from __future__ import annotations

import numpy as np
import pytest

from ftmech_hf.statistics.clusters import halves_of_rows, mean_of_rows, paired_lead, share_right, times_as_wide
from ftmech_hf.statistics.draws import difference_over_draws, mean_over_draws
from ftmech_hf.statistics.intervals import mean_interval, share_interval


def test_halves_are_every_other_row_or_group() -> None:
    first, second = halves_of_rows(5)
    assert (first.tolist(), second.tolist()) == ([0, 2, 4], [1, 3])
    first, second = halves_of_rows(8, np.array([7, 7, 3, 7, 1, 3, 1, 9]))
    # 7 into the first, 3 and 1 into the other, which has fewer, and then 9 into the first
    assert (first.tolist(), second.tolist()) == ([0, 1, 3, 7], [2, 4, 5, 6])
    first, second = halves_of_rows(4, np.array([2, 2, 2, 2]))
    assert (first.tolist(), second.tolist()) == ([0, 2], [1, 3])


@pytest.mark.parametrize("groups", [np.arange(60) % 2, np.arange(60) % 13, np.random.default_rng(0).integers(0, 9, 60)])
def test_no_group_is_in_both_halves(groups: np.ndarray) -> None:
    first, second = halves_of_rows(60, groups)
    assert sorted([*first, *second]) == list(range(60))
    assert not {*groups[first]} & {*groups[second]}
    assert min(len(first), len(second)) >= 20


def test_the_best_of_many_is_not_chosen_on_what_it_is_reported_on() -> None:
    """Twelve parts that are all right in three of ten: on halves by rows the best of them seems better."""
    rng, about = np.random.default_rng(0), np.random.default_rng(1).permutation(np.arange(192) % 20)
    found: dict[str, list[float]] = {"rows": [], "groups": []}
    for _ in range(150):
        table = (rng.random((12, 20)) < 0.3)[:, about]
        for name, groups in (("rows", None), ("groups", about)):
            chosen_on, reported = halves_of_rows(192, groups)
            best = table[:, chosen_on].mean(1).argmax()
            found[name].append(table[best, reported].mean())
    assert np.mean(found["rows"]) > 0.36, "the control"
    assert abs(np.mean(found["groups"]) - 0.3) < 0.03


def test_of_one_group_intervals_are_open() -> None:
    right, one = np.arange(40) < 10, np.zeros(40, int)
    assert share_right(right, one) == (0.25, 0, 1)
    assert paired_lead(right, ~right, one) == (-0.5, -1, 1)
    assert mean_of_rows(right, one) == (0.25, -np.inf, np.inf)
    draws = np.array([right, right, ~right])
    assert mean_over_draws(draws, one) == (pytest.approx(5 / 12), 0, 1)
    assert difference_over_draws(draws, right, one) == (pytest.approx(1 / 6), -1, 1)
    assert share_right(right, np.arange(40)) == share_right(right) == share_interval(10, 40)


def test_a_mean_of_rows_is_as_much_wider_as_rows_of_a_group_are_alike() -> None:
    values, groups = np.repeat([1.0, 3.0, 2.0, 5.0], 5), np.arange(20) // 5
    alone, wide = mean_of_rows(values), mean_of_rows(values, groups)
    assert alone == mean_interval(values.tolist())
    assert wide.high - wide.value == pytest.approx(times_as_wide(values, groups) * (alone.high - alone.value))
    by_hand = mean_interval([1.0, 3.0, 2.0, 5.0])  # all rows of a group are one value
    assert wide.high - wide.value == pytest.approx(by_hand.high - by_hand.value, rel=1e-6)
