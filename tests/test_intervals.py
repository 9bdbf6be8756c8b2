from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ftmech_hf.intervals import mean_of_shares, paired_difference, share_interval


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
