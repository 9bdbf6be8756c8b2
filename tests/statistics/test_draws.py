"""Random choices on rows that belong together: as sure as of the groups, in the mean and in the difference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ftmech_hf.statistics.clusters import paired_lead, share_right
from ftmech_hf.statistics.draws import _half_of_crossed, difference_over_draws, mean_over_draws
from ftmech_hf.statistics.intervals import Share

GROUPS, SIZE = 24, 12


def draw(rng: np.random.Generator, sizes: NDArray[np.int64]) -> tuple[NDArray[np.bool_], ...]:
    """Ten choices on rows of groups that are easy or hard, (right, right without, groups); a third is right without."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    ease = rng.beta(0.5, 1, len(sizes))[groups]
    luck = rng.uniform(-0.2, 0.2, (10, 1)) * ease * (1 - ease)
    return rng.random((10, len(groups))) < ease + luck, rng.random(len(groups)) < 1 / 3, groups


@pytest.mark.parametrize("sizes", [np.full(GROUPS, SIZE), np.arange(GROUPS) % 11 + 1], ids=["alike", "unlike"])
def test_intervals_cover_the_truth_where_rows_belong_together(sizes: NDArray[np.int64]) -> None:
    """The control takes rows for independent, and covers it far too rarely."""
    rng = np.random.default_rng(0)
    inside: list[list[bool]] = []
    for _ in range(400):
        right, plain, groups = draw(rng, sizes)
        pairs = [(each(right, groups), 1 / 3) for each in (mean_over_draws, lambda right, _: mean_over_draws(right))]
        pairs += [(difference_over_draws(right, plain, each), 0.0) for each in (groups, None)]
        inside.append([share.low <= truth <= share.high for share, truth in pairs])
    mean, of_rows, gain, gain_of_rows = np.mean(inside, 0)
    assert 0.93 < mean < 0.98, "neither too narrow nor wider than it must be"
    assert of_rows < 0.8
    assert 0.93 < gain < 0.98
    assert gain_of_rows < 0.85


def test_rows_that_are_the_same_several_times_count_once() -> None:
    """By hand: each row four times in a group is as sure as each row once."""
    rng = np.random.default_rng(1)
    once = rng.random((8, 60)) < rng.random(60) * 0.9
    before = rng.random(60) < 0.4
    four, groups = np.repeat(once, 4, 1), np.repeat(np.arange(60), 4)
    assert _half_of_crossed(four.astype(float), groups) == pytest.approx(_half_of_crossed(once.astype(float), None))
    gained = difference_over_draws(four, np.repeat(before, 4), groups)
    assert gained == pytest.approx(difference_over_draws(once, before), abs=0.01)
    mean = mean_over_draws(four, groups)
    alone, single = mean_over_draws(four), mean_over_draws(once)
    assert single.low < mean.low < alone.low < alone.high < mean.high < single.high, "single rows are taken for coins"


def test_choices_that_agree_are_no_surer_than_rows_in_groups() -> None:
    groups = np.repeat(np.arange(10), 10)
    right, plain = groups < 4, groups < 2
    mean, share = mean_over_draws(np.tile(right, (5, 1)), groups), share_right(right, groups)
    assert mean.low <= share.low < share.high <= mean.high
    gained, lead = difference_over_draws(np.tile(right, (5, 1)), plain, groups), paired_lead(right, plain, groups)
    assert gained.low <= lead.low + 1e-9 < lead.high - 1e-9 <= gained.high
    none = mean_over_draws(np.zeros((3, 100), bool), groups)
    assert none == share_right(np.zeros(100, bool), groups)


def test_of_one_group_nothing_is_known_and_ends_stay_numbers() -> None:
    """An interval over groups takes two of them; that over rows would say much of what was asked about one thing."""
    right, plain = np.arange(40) < 10, np.arange(40) < 5
    one = np.zeros(40, int)
    draws = np.tile(right, (3, 1))
    assert mean_over_draws(draws, one) == (0.25, 0, 1)
    assert difference_over_draws(draws, plain, one) == (0.125, -1, 1)
    assert share_right(right, one) == (0.25, 0, 1)


def test_groups_widen_by_what_rows_of_one_share_and_not_by_how_they_are_called() -> None:
    rng = np.random.default_rng(2)
    right, _, groups = draw(rng, np.full(GROUPS, SIZE))
    found = mean_over_draws(right, groups)
    order = rng.permutation(len(groups))
    assert mean_over_draws(right[:, order], groups[order]) == pytest.approx(found)
    assert mean_over_draws(right, 100 - groups) == pytest.approx(found)
    mixed = mean_over_draws(right, groups[order])
    assert mixed.high - mixed.low < found.high - found.low


def test_a_lead_is_at_most_all() -> None:
    groups = np.repeat(np.arange(2), 5)
    found: Share = paired_lead(groups == 0, np.zeros(10, bool), groups)
    assert (found.low, found.high) == (-1, 1)
