from __future__ import annotations

import math

import numpy as np
import pytest

from ftmech_hf.analysis.unlearning_depth import unlearning_depth

BASE = [-0.5, -0.1, -0.3, -0.3]  # of four rows; -0.3 in the mean


def shifted(*falls: float) -> dict[int, list[float]]:
    """Layer -> log-probabilities that much lower than the base's."""
    return {3 * layer: [each - fall for each in BASE] for layer, fall in enumerate(falls)}


@pytest.mark.parametrize(
    ("finetuned", "depth"),
    [
        ((0.0, 0.0), 0.0),
        ((0.8, 0.4), 1.0),
        ((0.8, 0.0), 2 / 3),  # the first layer holds twice as much
        ((0.0, 0.4), 1 / 3),
        ((0.4, 0.2), 0.5),
        ((5.0, 5.0), 1.0),  # no more than the control's takes away
        ((-1.0, 0.4), 1 / 3),  # what is better than the base has lost nothing
    ],
)  # fmt: skip
def test_by_hand(finetuned: tuple[float, float], depth: float) -> None:
    """The control takes 0.8 nats away after layer 0 and 0.4 after layer 3: weights are 2 to 1."""
    found = unlearning_depth(BASE, shifted(0.8, 0.4), shifted(*finetuned))
    assert found.depth == pytest.approx((depth, depth, depth))  # all rows fall alike: no doubt
    assert found.control_falls == pytest.approx({0: 0.8, 3: 0.4})
    assert found.falls == pytest.approx(dict(zip((0, 3), finetuned, strict=True)))
    assert [row["layer"] for row in found.rows()] == [0, 3]


def test_layers_where_the_control_takes_next_to_nothing_away_do_not_count() -> None:
    found = unlearning_depth(BASE, shifted(0.8, 0.04), shifted(0.0, 9.0))
    assert found.depth.value == 0
    assert [row["counts"] for row in found.rows()] == [True, False]
    nothing = unlearning_depth(BASE, shifted(0.03), shifted(9.0))
    assert all(math.isnan(value) for value in nothing.depth)
    assert nothing.summary() == {"value": None, "low": None, "high": None}


def test_the_interval_holds_the_truth_as_often_as_it_says_and_narrows_with_rows() -> None:
    """Falls of rows are drawn around 1 (control) and 0.3 (fine-tuned): the depth is 0.3."""
    rng, inside, widths = np.random.default_rng(0), 0, []
    for number in [50] * 100 + [400]:
        base = np.zeros(number)
        falls = {0: base - 1 - 0.5 * rng.standard_normal(number)}
        finetuned = {0: base - 0.3 - 0.5 * rng.standard_normal(number)}
        depth = unlearning_depth(base, falls, finetuned).depth
        inside += depth.low <= 0.3 <= depth.high
        widths.append(depth.high - depth.low)
    assert 89 <= inside <= 100  # of 101
    assert widths[-1] < 0.5 * np.mean(widths[:-1])


def test_rows_that_fall_together_are_drawn_together() -> None:
    """Ten groups of eight rows of which each falls as one: taken for 80 rows, an interval misses far too often."""
    rng, inside = np.random.default_rng(0), {"alone": 0, "together": 0}
    about = np.arange(80) % 10
    for _ in range(100):
        base = np.zeros(80)
        control = {0: base - 1 - 0.3 * rng.standard_normal(10)[about]}
        finetuned = {0: base - 0.4 - 0.3 * rng.standard_normal(10)[about]}
        for name, groups in (("alone", None), ("together", about)):
            depth = unlearning_depth(base, control, finetuned, groups=groups).depth
            inside[name] += depth.low <= 0.4 <= depth.high
    assert inside["alone"] <= 65
    assert 85 <= inside["together"] <= 98  # of 100: ten groups are few for a percentile


def test_of_one_group_nothing_is_known_of_others() -> None:
    for groups in ([7, 7, 7, 7], None):
        number = 4 if groups else 1
        falls = {0: [each - 0.8 for each in BASE[:number]]}
        found = unlearning_depth(BASE[:number], falls, {0: [each - 0.2 for each in BASE[:number]]}, groups=groups)
        assert found.depth == pytest.approx((0.25, 0, 1))


def test_layers_and_rows_must_agree() -> None:
    with pytest.raises(ValueError, match=r"finetuned: layers \[0\], expected those of control: \[0, 3\]"):
        unlearning_depth(BASE, shifted(1, 1), shifted(1))
    with pytest.raises(ValueError, match=r"finetuned: of shape \(1, 2\), expected \(layers, rows\): \(1, 4\)"):
        unlearning_depth(BASE, shifted(1), {0: [0.0, 0.0]})
    with pytest.raises(ValueError, match="base: of no rows"):
        unlearning_depth([], {0: []}, {0: []})


def test_a_depth_that_is_not_known_has_no_interval() -> None:
    base, one = [0.0] * 20, [-0.9] + [0.0] * 19  # a mean fall of 0.045, which counts for none
    found = unlearning_depth(base, {0: one}, {0: one})
    assert all(math.isnan(each) for each in found.depth)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_no_number_is_refused_and_not_left_out(value: float) -> None:
    broken = {**shifted(0.4, 0.2), 3: [value, *BASE[1:]]}
    for given, name in (
        ((BASE, broken, shifted(0.4, 0.2)), "control"),
        ((BASE, shifted(0.4, 0.2), broken), "finetuned"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: it answers with nan or inf, expected numbers"):
            unlearning_depth(*given)
