from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ftmech_hf.statistics.clusters import widened_by_clusters
from ftmech_hf.statistics.draws import difference_over_draws, mean_over_draws
from ftmech_hf.statistics.intervals import (
    difference_of_shares,
    geometric_mean_interval,
    mean_interval,
    mean_of_shares,
    paired_difference,
    share_bounds,
    share_interval,
)
from ftmech_hf.statistics.seeds import share_in_clusters


@pytest.mark.parametrize(("right", "number"), [(0, 20), (9, 20), (20, 20), (40, 400), (384, 400)])
def test_wilson_inverts_the_score_test(right: int, number: int) -> None:
    share = share_interval(right, number)
    z = stats.norm.ppf(0.975)
    edges = [edge for edge, few in ((share.low, right), (share.high, number - right)) if few > min(16, number / 2)]
    for edge in edges:
        assert abs(right / number - edge) / np.sqrt(edge * (1 - edge) / number) == pytest.approx(z)
    assert len(edges) == 2 - (min(right, number - right) <= min(16, number / 2))
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_few_right_answers_have_the_lower_end_of_a_poisson_count() -> None:
    """One of a thousand: a share of which none is right in 95 of 100 times."""
    share = share_interval(1, 1000)
    assert 1 - math.exp(-1000 * share.low) == pytest.approx(0.05, abs=1e-6)
    wilson = stats.binomtest(1, 1000).proportion_ci(method="wilson")
    assert share.low < wilson.low / 3
    assert share.high == pytest.approx(wilson.high)
    mirrored = share_interval(999, 1000)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((share.low, share.high))
    many = share_bounds([1, 500, 999], 1000)
    assert [end[1] for end in many] == pytest.approx(list(share_interval(500, 1000)[1:]))
    assert (many[0][0], many[1][2]) == (share.low, mirrored.high)


def test_pairing_is_what_makes_it_narrow() -> None:
    first = np.arange(100) < 80
    second = np.arange(100) < 78
    paired = paired_difference(first, second)
    apart = paired_difference(first, np.roll(second, 50))
    assert paired.value == pytest.approx(0.02) == apart.value
    assert paired.high - paired.low < (apart.high - apart.low) / 3
    same = paired_difference(first, first)
    assert same.value == 0
    assert -0.02 < same.low < 0 < same.high < 0.02
    with pytest.raises(ValueError, match=r"rows: \(100,\) and \(99,\)"):
        paired_difference(first, first[1:])
    with pytest.raises(ValueError, match=r"rows: \(0,\) and \(0,\), expected the same rows in both, at least one"):
        paired_difference([], [])


def test_a_mean_of_shares_that_are_all_right_is_not_certain() -> None:
    perfect = mean_of_shares((40, 40), (160, 160))
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.93 < perfect.low < 0.98
    alone = mean_of_shares((7, 20))
    assert alone == pytest.approx(share_interval(7, 20))


def test_a_mean_over_choices_is_never_more_certain_than_its_rows() -> None:
    """Five choices that agree on all rows say no more than one."""
    row = np.arange(200) < 30
    alike = mean_over_draws(np.tile(row, (5, 1)))
    wilson = share_interval(30, 200)
    assert alike.value == pytest.approx(0.15)
    assert alike.low == pytest.approx(wilson.low, abs=0.01)
    assert alike.high == pytest.approx(wilson.high, abs=0.01)
    assert alike.low <= wilson.low < wilson.high <= alike.high
    none = mean_over_draws(np.zeros((2, 150), bool))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(share_interval(0, 150).high)
    every = mean_over_draws(np.ones((3, 150), bool))
    assert (every.value, every.high) == (1, 1)
    assert every.low == pytest.approx(share_interval(150, 150).low)
    with pytest.raises(ValueError, match=r"right: of shape \(3,\)"):
        mean_over_draws([True, False, True])
    with pytest.raises(ValueError, match=r"right: of shape \(0, 3\)"):
        mean_over_draws(np.zeros((0, 3), bool))


def test_a_mean_over_choices_is_of_crossed_choices_and_rows() -> None:
    """By hand: two choices, two rows; means of choices 1/2 and 1, of rows 1/2 and 1."""
    found = mean_over_draws([[False, True], [True, True]])
    assert found.value == 0.75
    wilson = share_interval(2, 2)
    assert (found.low, found.high) == (pytest.approx(min(found.low, wilson.low)), pytest.approx(1, abs=1e-3))
    rng = np.random.default_rng(0)
    right = rng.random((12, 4000)) < np.linspace(0.1, 0.6, 12)[:, None]
    wide = mean_over_draws(right)
    error = right.mean(1).std(ddof=1) / 12**0.5
    logit = math.log(wide.value / (1 - wide.value))
    half = stats.t.ppf(0.975, 11) * error / (wide.value * (1 - wide.value))
    ends = [1 / (1 + math.exp(-logit + side * half)) for side in (1, -1)]
    assert [wide.low, wide.high] == pytest.approx(ends, abs=0.003), "of so many rows, the choices alone matter"
    narrow = mean_over_draws(np.tile(right[:1], (12, 1)))
    assert narrow[1:] == pytest.approx(share_interval(int(right[0].sum()), 4000)[1:], abs=1e-3)


def test_a_difference_over_choices_is_of_what_each_row_gains() -> None:
    """Rows that are right or wrong in any case make it no wider, and choices that agree no narrower than one."""
    plain = np.arange(200) < 120
    one = plain | (np.arange(200) >= 185)
    alike = difference_over_draws(np.tile(one, (8, 1)), plain)
    assert alike.value == pytest.approx(0.075)
    assert alike.low <= paired_difference(one, plain).low
    assert alike == pytest.approx(paired_difference(one, plain), abs=0.001)
    assert alike.low > 0  # of their own intervals the lower end is below the other's upper one
    assert share_interval(135, 200).low < share_interval(120, 200).high
    turned = difference_over_draws(np.tile(plain, (8, 1)), one)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-alike.value, -alike.high, -alike.low))
    same = difference_over_draws(np.tile(plain, (8, 1)), plain)
    assert same.low < 0 == same.value < same.high
    rng = np.random.default_rng(1)
    apart = rng.random((8, 200)) < np.linspace(0.2, 0.9, 8)[:, None]
    gains = apart.mean(1) - plain.mean()
    half = stats.t.ppf(0.975, 7) * gains.std(ddof=1) / 8**0.5
    found = difference_over_draws(apart, plain)
    assert found.high - found.low > 1.9 * half  # the choices differ more than the rows
    two = difference_over_draws([[True] * 50, [True] * 10 + [False] * 40], np.zeros(50, bool))
    assert (two.low, two.high) == (-1, 1)  # of two choices nothing is known
    with pytest.raises(ValueError, match=r"right: of shape \(8, 200\), expected \(choices, 199\)"):
        difference_over_draws(apart, plain[1:])
    with pytest.raises(ValueError, match=r"right: of shape \(200,\)"):
        difference_over_draws(plain, plain)


def test_geometric_means_are_of_logarithms() -> None:
    mean, low, high = geometric_mean_interval([2, 8, 32])
    assert (mean, low * high) == (pytest.approx(8), pytest.approx(64))
    assert math.log(high / 8) == pytest.approx(4.30265273 * math.log(4) / math.sqrt(3))
    assert geometric_mean_interval([3.0])[1:] == (0, math.inf)
    assert mean_interval([3.0]) == (3, -math.inf, math.inf)


def test_a_difference_of_shares_is_newcombes() -> None:
    """His example: 56 of 70 less 48 of 80 is 0.2, with 0.0524 to 0.3339 (Stat. in Medicine 17, 1998, method 10)."""
    assert difference_of_shares((56, 70), (48, 80)) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-3)
    assert difference_of_shares((48, 80), (56, 70))[1:] == pytest.approx((-0.3339, -0.0524), abs=5e-3)


def test_clusters_may_be_called_anything() -> None:
    counted, named = [True, True, False, False], ["a", "a", "b", "b"]
    pairs = [("a", 0), ("a", 0), ("b", 1), ("b", 1)]
    share = share_interval(2, 4)
    assert widened_by_clusters(share, counted, pairs) == widened_by_clusters(share, counted, named)
    assert widened_by_clusters(share, counted, named).low < share.low


def test_a_share_in_clusters_is_that_of_the_clusters_in_which_an_end_is_farthest_away() -> None:
    counted = [True] * 6 + [False] * 2 + [True, False] * 4
    kinds, seeds = [number // 4 for number in range(16)], [number % 2 for number in range(16)]
    alone = share_interval(sum(counted), 16)
    by_kind, by_seed = (widened_by_clusters(alone, counted, each) for each in (kinds, seeds))
    assert share_in_clusters(counted) == alone
    assert share_in_clusters(counted, kinds) == by_kind
    assert share_in_clusters(counted, seeds) == by_seed
    both = share_in_clusters(counted, kinds, seeds)
    assert both == (alone.value, min(alone.low, by_kind.low, by_seed.low), max(alone.high, by_kind.high, by_seed.high))


def test_answers_that_are_right_in_part_count_for_as_much_as_they_are() -> None:
    found = paired_difference([0.3, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert found.value == pytest.approx(0.175)
    assert found.low < 0.175 < found.high
