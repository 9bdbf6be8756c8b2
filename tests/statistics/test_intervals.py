from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ftmech_hf.statistics.intervals import mean_of_shares, mean_over_draws, paired_difference, share_interval


@pytest.mark.parametrize(("right", "number"), [(0, 20), (7, 20), (20, 20)])
def test_wilson_inverts_the_score_test(right: int, number: int) -> None:
    share = share_interval(right, number)
    z = stats.norm.ppf(0.975)
    for edge in (share.low, share.high):
        if 0 < edge < 1:
            assert abs(right / number - edge) / np.sqrt(edge * (1 - edge) / number) == pytest.approx(z)
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_a_paired_difference_covers_the_truth_as_often_as_it_says() -> None:
    """Both models are right on 90 and 80 % of the rows, and mostly on the same ones."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        both, first_only = rng.random(200) < 0.78, rng.random(200)
        first = both | (first_only < 0.12 / 0.22)
        second = both | (first_only > 1 - 0.02 / 0.22)
        found = paired_difference(first, second)
        covered += found.low <= 0.10 <= found.high
    assert 0.92 <= covered / 400 <= 0.99


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


def test_a_mean_of_shares_covers_the_truth_as_often_as_it_says() -> None:
    """Balanced accuracy of a judge that is right about 95 % of 40 stories and 70 % of 160."""
    rng = np.random.default_rng(1)
    first, second = rng.binomial(40, 0.95, 600), rng.binomial(160, 0.7, 600)
    found = [mean_of_shares((int(one), 40), (int(other), 160)) for one, other in zip(first, second, strict=True)]
    assert 0.92 <= np.mean([share.low <= 0.825 <= share.high for share in found]) <= 0.98
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


def test_a_mean_over_choices_that_differ_is_less_certain_than_its_rows() -> None:
    """Choices that are right on 5 to 45 %: Wilson's interval on the rows alone would leave the truth out too often."""
    rng = np.random.default_rng(0)
    covered = {"both": 0, "rows": 0}
    for _ in range(100):
        chances = rng.beta(2, 6, (12, 1))  # mean 25 %
        right = rng.random((12, 1000)) < chances
        found, wilson = mean_over_draws(right, draws=200), share_interval(round(right.mean() * 1000), 1000)
        assert 0 <= found.low <= found.value <= found.high <= 1
        covered["both"] += found.low <= 0.25 <= found.high
        covered["rows"] += wilson.low <= 0.25 <= wilson.high
    assert covered["rows"] < 70
    assert covered["both"] >= 85
