from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.analysis.revival import RevivalResult, revival_ratio
from ftmech_hf.report.readings import (
    Missing,
    Reading,
    Unit,
    difference,
    of_ratio,
    of_revival,
    over_seeds,
    read_all,
    read_row,
    table_over_seeds,
    weighted,
)
from ftmech_hf.statistics.intervals import mean_interval, share_interval
from ftmech_hf.statistics.seeds import share_over_seeds

T_2 = 4.302652729911275
"""97.5 % point of Student's t with two degrees of freedom, from a printed table."""


def test_a_row_of_a_table_keeps_its_floor() -> None:
    row = {"value": 0.5, "rows": 64, "floor": 0.14, "low": 0.4, "high": 0.6, "bound": math.nan}
    assert read_row(row, 100.0) == Reading(50.0, rows=64, interval=(40.0, 60.0), floor=pytest.approx(14.0))
    assert read_row({"value": 0.5, "floor": math.nan}).floor is None


def plain(*values: float) -> list[Reading]:
    return [Reading(value) for value in values]


def test_points_and_counts_are_students() -> None:
    half = T_2 * math.sqrt(13 / 3)  # the standard deviation of 6, 8 and 13 is the root of 13
    for unit in ("points", "neurons", "nats"):
        measured, ends = over_seeds(plain(6, 8, 13), unit)
        low = 9 - half if unit == "points" else max(0, 9 - half)
        assert (measured, *ends) == pytest.approx((9, low, 9 + half))  # type: ignore[misc]
    assert over_seeds(plain(-1, 0, 0), "points")[1][0] < -1  # type: ignore[index,operator]
    assert over_seeds(plain(1, 0, 0), "neurons")[1][0] == 0  # type: ignore[index]


def test_ratios_and_steps_are_geometric() -> None:
    for unit in ("x", "steps"):
        measured, ends = over_seeds(plain(2, 8, 32), unit)
        half = math.exp(T_2 * math.log(4) / math.sqrt(3))  # logarithms are log 8 and log 4 to either side
        assert (measured, *ends) == pytest.approx((8, 8 / half, 8 * half))  # type: ignore[misc]
    assert over_seeds(plain(0, 1, 1), "steps") == (1, None), "what is counted on a grid may be the same by chance"
    short = [Reading(0.0, interval=(0.0, 1.0)), Reading(1.0, interval=(0.5, 2.0))]
    assert over_seeds(short, "steps") == (1, (1, pytest.approx(2**0.5))), "less than a step counts as one"


def test_shares_are_of_two_levels() -> None:
    counts = [(45, 50), (49, 50), (47, 50)]
    share = share_over_seeds(counts)
    for unit, whole in (("share", 1), ("%", 100)):
        measured, ends = over_seeds([Reading(whole * right / rows, rows=rows) for right, rows in counts], unit)  # type: ignore[arg-type]
        assert (measured, *ends) == pytest.approx([whole * each for each in share])  # type: ignore[misc]


@pytest.mark.parametrize("unit", get_args(Unit))
def test_what_is_not_known_has_no_interval(unit: Unit) -> None:
    measured, ends = over_seeds([Reading(0.5)], unit)
    assert (measured, ends) == (1.0 if unit == "steps" else 0.5, None)
    if unit in ("%", "share"):
        assert over_seeds([Reading(0.5, rows=10), Reading(0.5)], unit)[1] is None


def test_an_interval_is_never_narrower_than_that_of_the_rows() -> None:
    """Three seeds that agree to the last row: their spread alone would say that nothing is left to know."""
    alike = [Reading(4.0, interval=(1.0, 6.0))] * 3
    for unit in ("points", "neurons", "steps", "x"):
        assert over_seeds(plain(4, 4, 4), unit) == (pytest.approx(4), None), "they say nothing of the next one"
    assert over_seeds(alike, "points")[1] == pytest.approx((4 - math.sqrt(3), 4 + 2 / math.sqrt(3)))
    assert over_seeds(alike[:1], "points") == (4, (1, 6))
    apart = [Reading(value, interval=(value - 0.1, value + 0.1)) for value in (6.0, 8.0, 13.0)]
    assert over_seeds(apart, "points") == over_seeds(plain(6, 8, 13), "points")
    mixed = [*alike[:2], Reading(4.0)]
    assert over_seeds(mixed, "points")[1] is None, "one seed's rows are not known"
    steps = [Reading(8.0, interval=(4.0, 16.0))] * 4
    assert over_seeds(steps, "steps")[1] == pytest.approx((8 / 2**0.5, 8 * 2**0.5))


def test_what_may_be_below_zero_keeps_its_lower_end_and_a_share_its_own_interval() -> None:
    measured, (low, high) = over_seeds(plain(-0.3, -0.2, -0.25), "nats")  # type: ignore[misc]
    assert low < measured < high < 0  # type: ignore[operator]
    assert over_seeds(plain(0.1, 0.2, 0.9), "nats")[1][0] == 0  # type: ignore[index]
    drawn = Reading(50.0, interval=(40.0, 60.0))
    assert over_seeds([drawn], "%") == (50, (40, 60))
    assert over_seeds([drawn, drawn], "%")[1] == pytest.approx((50 - 10 / 2**0.5, 50 + 10 / 2**0.5))
    assert over_seeds([drawn, Reading(50.0)], "%")[1] is None


def test_a_bound_opens_the_end_that_it_says_nothing_about() -> None:
    _, (low, high) = over_seeds(plain(4, 5, 6), "x")  # type: ignore[misc]
    for bound, ends in (("at least", (low, None)), ("at most", (None, high)), ("unknown", (None, None))):
        found = over_seeds([Reading(4.0), Reading(5.0, bound=bound), Reading(6.0)], "x")[1]  # type: ignore[arg-type]
        assert found == ends
    both = [Reading(4.0, bound="at most"), Reading(5.0, bound="at least"), Reading(6.0)]
    assert over_seeds(both, "x")[1] == (None, None)


def test_the_lower_end_of_what_was_capped_stays_below_the_truth() -> None:
    """Runs stop at step 64: the geometric mean of what they would have needed is above the lower end, as often as said.

    The upper end of what is known to be capped would miss; it is open.
    """
    rng = np.random.default_rng(0)
    below = above = 0
    for _ in range(400):
        needed = np.exp(rng.normal(math.log(48), 1.0, 5))
        readings = [Reading(min(each, 64.0), bound="at least" if each > 64 else "") for each in needed]
        low, high = over_seeds(readings, "steps")[1]  # type: ignore[misc]
        capped = over_seeds([Reading(each.value) for each in readings], "steps")[1] or (64.0, 64.0)
        below += low is not None and low <= 48
        above += high is None or high >= 48
        assert low == pytest.approx(capped[0])
    assert below / 400 >= 0.96
    assert above / 400 >= 0.96
    stuck = [Reading(64.0, bound="at least")] * 5
    low, high = over_seeds(stuck, "steps")[1]  # type: ignore[misc]
    assert (low, high) == (pytest.approx(64), None)
    assert over_seeds(plain(64, 64, 64, 64, 64), "steps")[1] is None, "the control: not said"


def test_ratios_and_steps_say_which_side_is_open() -> None:
    done, late = (RevivalResult(steps, 150, 0.95, 0.5) for steps in (10, None))
    assert of_revival(done) == Reading(10.0)
    assert of_revival(late) == Reading(150.0, interval=(150.0, 150.0), bound="at least")
    told = RevivalResult(10, 150, 0.95, 0.5, before=8)
    assert of_revival(told) == Reading(10.0, interval=(8.0, 10.0))
    ratio = revival_ratio(told, RevivalResult(80, 150, 0.95, 0.5, before=60))
    assert of_ratio(ratio) == Reading(8.0, interval=(6.0, 10.0))
    alike = over_seeds([of_revival(told)] * 3, "steps")[1]
    assert alike == (pytest.approx(10 * 0.8 ** (1 / 3**0.5)), pytest.approx(10)), "equal steps are known to the grid"
    assert of_ratio(revival_ratio(done, RevivalResult(80, 150, 0.95, 0.5))) == Reading(8.0)
    assert of_ratio(revival_ratio(done, late)) == Reading(15.0, bound="at least")
    assert of_ratio(revival_ratio(late, done)) == Reading(1 / 15, bound="at most")
    assert of_ratio(revival_ratio(late, late)) == Reading(1.0, interval=(1.0, 1.0), bound="unknown")


def test_a_difference_has_the_interval_of_its_rows() -> None:
    found = difference(Reading(98.0, rows=1000), Reading(90.0, rows=1000))
    one, other = share_interval(980, 1000), share_interval(900, 1000)
    low = 8 - 100 * math.hypot(0.98 - one.low, other.high - 0.9)
    high = 8 + 100 * math.hypot(one.high - 0.98, 0.9 - other.low)
    assert (found.value, *found.interval) == pytest.approx((8, low, high))  # type: ignore[misc]


def test_what_has_an_interval_of_its_own_is_taken_by_it_in_differences_and_shares() -> None:
    """As the mean of a few random choices on the same rows, which is far less certain than so many rows."""
    wide = Reading(30.0, rows=1000, interval=(5.0, 80.0))
    found = difference(Reading(90.0, rows=1000), wide)
    _, low, high = share_interval(900, 1000)
    below, above = math.hypot(90 - 100 * low, 50), math.hypot(100 * high - 90, 25)
    assert found.interval == pytest.approx((60 - below, 60 + above))
    assert over_seeds([wide], "%") == (30.0, (5.0, 80.0))
    two = over_seeds([wide, wide], "%")[1]
    assert two is not None
    assert two == pytest.approx((30 - 25 / math.sqrt(2), 30 + 50 / math.sqrt(2)))


def test_all_that_can_be_read_is_read_and_what_rests_on_a_missing_run_is_left_out() -> None:
    def missing(seed: dict[str, float]) -> Reading:
        raise Missing

    found = read_all(
        {"one": lambda seed: Reading(seed["a"]), "none": missing, "two": lambda seed: Reading(2)}, {"a": 1}
    )
    assert found == {"one": Reading(1), "two": Reading(2)}
    with pytest.raises(KeyError):  # any other fault is one
        read_all({"one": lambda seed: Reading(seed["b"])}, {"a": 1})


def test_a_table_over_seeds_keeps_what_is_apart_apart() -> None:
    rows = [
        {"seed": seed, "metric": metric, "value": value, "rows": number, "bound": bound}
        for seed in (0, 1)
        for metric, value, number, bound in (
            ("a", 0.5 + 0.25 * seed, 8, ""), ("steps", 4.0 * 4**seed, None, "at least" if seed else ""),
            ("lost", 0.5, None, ""),
        )
    ]  # fmt: skip
    units = {"a": "share", "steps": "steps", "lost": "share"}
    found = table_over_seeds(pd.DataFrame(rows), ["metric"], lambda row: units[row["metric"]])  # type: ignore[arg-type,return-value]
    found = found.set_index("metric")
    share = share_over_seeds([(4, 8), (6, 8)])
    assert found.loc["a"].tolist() == pytest.approx([2, *share])
    assert found.loc["steps", ["mean", "high"]].tolist() == pytest.approx([8, math.inf])
    assert found.loc["lost", ["low", "high"]].isna().all()
    (alone,) = table_over_seeds(pd.DataFrame(rows[:1]), ["metric"], "share").to_dict("records")
    assert (alone["low"], alone["high"]) == share_interval(4, 8)[1:]


def test_a_table_over_seeds_is_in_the_order_of_its_rows_and_keeps_what_has_no_name() -> None:
    cells = {("b", "one"): [0.5, 0.7], ("a", "one"): [0.25], ("b", None): [0.1, 0.2, 0.3]}
    rows = [{"task": task, "model": model, "value": each} for (task, model), found in cells.items() for each in found]
    found = table_over_seeds(pd.DataFrame(rows), ["task", "model"], "points")
    assert list(found) == ["task", "model", "n", "mean", "low", "high"]
    assert found["task"].tolist() == ["b", "a", "b"]
    assert found["n"].tolist() == [2, 1, 3]
    assert found["mean"].tolist() == pytest.approx([0.6, 0.25, 0.2])
    assert found["low"].isna().tolist() == [False, True, False]
    empty = table_over_seeds(pd.DataFrame(rows).iloc[:0], ["task"], "points")
    assert list(empty) == ["task", "n", "mean", "low", "high"]


def test_differences_of_shares_have_no_interval_beyond_what_they_can_be() -> None:
    shares = [(95.0, 0.0), (20.0, 0.0), (90.0, 5.0)]
    plain = [difference(Reading(one, rows=64), Reading(other, rows=64)) for one, other in shares]
    measured, ends = over_seeds(plain, "points")
    assert ends is not None
    assert mean_interval([each.value for each in plain])[2] > 100  # by Student's t alone
    assert (measured, ends[1]) == (pytest.approx(200 / 3), 100.0)
    unknown = over_seeds([Reading(each.value) for each in plain], "points")[1]
    assert unknown is not None
    assert unknown[1] is not None
    assert unknown[1] > 100  # nobody says that these are of shares
    assert weighted((1.0, Reading(-80.0, interval=(-90.0, -70.0)))).limits is None
    assert weighted((1.0, plain[0]), (-1.0, plain[1])).limits == (-200.0, 200.0)
    halved = weighted((1.0, Reading(0.0, rows=8)), (-0.5, Reading(100.0, rows=8)), (-0.5, Reading(100.0, rows=8)))
    assert halved.limits == (-100.0, 100.0)
    assert halved.interval is not None
    assert halved.interval[0] == -100.0
