from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.report.claims import (
    Measurement,
    claims_json,
    decide,
    judge,
    judge_pairs,
    least_number,
    name_claims,
    read_claims,
)
from ftmech_hf.report.page import (
    count_verdicts,
    format_floor,
    format_interval,
    format_measured,
    format_number,
    format_verdict,
)
from ftmech_hf.report.readings import Reading
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.statistics.seeds import share_over_seeds
from ftmech_hf.studies.pcfg.claims import MEASUREMENTS

RIGHT = Measurement("right", "It is right", "%", "99 (Table 1)", ">= 90")
WRONG = Measurement("wrong", "It is wrong", "%", bar="<= 20")
RATIO = Measurement("ratio", "It takes longer by", "x", bar=">= 5")
SHOWN = Measurement("shown", "It is shown", "neurons")


@pytest.mark.parametrize(
    ("interval", "bar", "verdict"),
    [
        ((90.0, 95.0), ">= 90", "holds"),
        ((89.9, 95.0), ">= 90", "undecided"),
        ((80.0, 90.0), ">= 90", "undecided"),
        ((80.0, 89.9), ">= 90", "fails"),
        ((10.0, 20.0), "<= 20", "holds"),
        ((10.0, 20.1), "<= 20", "undecided"),
        ((20.0, 30.0), "<= 20", "undecided"),
        ((20.1, 30.0), "<= 20", "fails"),
        ((5.0, None), ">= 5", "holds"),
        ((4.9, None), ">= 5", "undecided"),
        ((0.0, None), "<= 5", "undecided"),
        ((5.1, None), "<= 5", "fails"),
        ((None, 4.9), ">= 5", "fails"),
        ((None, 5.0), ">= 5", "undecided"),
        ((None, 5.0), "<= 5", "holds"),
        ((4.999999999999999, None), ">= 5", "holds"),  # the mean of equal logarithms
        ((None, 100.00000000000004), "<= 100", "holds"),
        ((4.9999, None), ">= 5", "undecided"),
        ((None, 4.9999), ">= 5", "fails"),
        ((None, None), ">= 5", "undecided"),
        ((-3.0, -1.0), "<= 0", "holds"),
        (None, ">= 5", "undecided"),
        (None, "<= 5", "undecided"),
    ],
)
def test_a_verdict_needs_its_whole_interval_beyond_the_bar(
    interval: tuple[float | None, float | None] | None, bar: str, verdict: str
) -> None:
    assert decide(interval, bar) == verdict


def test_a_mean_beyond_the_bar_is_not_enough() -> None:
    """96 % of 3 x 50 rows, with 90 as the bar: the mean meets it with six points to spare."""
    (claim,) = judge([RIGHT], {seed: {"right": Reading(96.0, rows=50)} for seed in range(3)})
    assert (claim.measured, claim.verdict) == (96, "undecided")
    (claim,) = judge([RIGHT], {seed: {"right": Reading(96.0, rows=2000)} for seed in range(3)})
    assert claim.verdict == "holds"
    (claim,) = judge([WRONG], {seed: {"wrong": Reading(96.0, rows=50)} for seed in range(3)})
    assert claim.verdict == "fails"


def test_seeds_that_differ_decide_nothing_however_many_rows_they_have() -> None:
    by_seed = {seed: {"right": Reading(value, rows=10_000)} for seed, value in enumerate((99.0, 99.0, 88.0))}
    (claim,) = judge([RIGHT], by_seed)
    assert (claim.measured, claim.verdict) == (pytest.approx(95.33, abs=0.01), "undecided")
    low, high = share_over_seeds([(9900, 10_000), (9900, 10_000), (8800, 10_000)])[1:]
    assert claim.interval == pytest.approx((100 * low, 100 * high))


def test_a_single_seed_has_the_interval_of_its_rows_if_they_are_known() -> None:
    (known,) = judge([RIGHT], {7: {"right": Reading(95.0, rows=1000)}})
    share = share_interval(950, 1000)
    assert known.interval == pytest.approx((100 * share.low, 100 * share.high))
    assert (known.verdict, known.seeds, known.values) == ("holds", [7], [95])
    (unknown,) = judge([RIGHT], {7: {"right": 100.0}})
    assert (unknown.measured, unknown.interval, unknown.verdict) == (100, None, "undecided")
    (several,) = judge([RIGHT], {seed: {"right": 100.0} for seed in range(5)})
    assert (several.interval, several.verdict) == (None, "undecided"), "of how many rows, nobody says"


def test_pairs_of_which_some_are_missing_are_reported_and_not_judged() -> None:
    whole, part = (judge_pairs(RIGHT, 97.0, (95.0, 99.0), [0, 1], whole=each) for each in (True, False))
    assert (whole.verdict, part.verdict) == ("holds", None)
    assert (part.measured, part.interval, part.seeds) == (97.0, (95.0, 99.0), [0, 1])


@pytest.mark.parametrize(("bar", "unit"), [("<= 1", "%"), ("<= 10", "%"), (">= 95", "%"), (">= 0.99", "share")])
def test_the_least_number_of_pairs_is_the_first_of_which_a_claim_can_hold(bar: str, unit: Any) -> None:
    bar_of = Measurement("it", "It is so", unit, "not reported", bar)
    least, whole = least_number(bar_of), 100 if unit == "%" else 1
    best = {number: share_interval(0 if bar.startswith("<=") else number, number) for number in (least - 1, least)}
    verdicts = [decide((whole * each.low, whole * each.high), bar) for each in best.values()]
    assert verdicts == ["undecided", "holds"]


def test_what_a_seed_lacks_is_reported_and_not_judged() -> None:
    by_seed = {0: {"right": Reading(99.0, rows=5000)}, 1: {}, 2: {"right": Reading(99.0, rows=5000)}}
    (claim,) = judge([RIGHT, WRONG], by_seed)
    assert (claim.id, claim.seeds, claim.values, claim.verdict) == ("right", [0, 2], [99, 99], None)
    assert claim.interval is not None
    assert claim.interval[0] > 90, "it would hold"
    assert format_verdict(claim) == "not judged"


def test_what_has_no_bar_has_no_verdict_and_stays_out_of_the_file() -> None:
    claims = judge([SHOWN, RIGHT], {0: {"shown": 3.0, "right": Reading(50.0, rows=100)}})
    assert [(claim.id, claim.verdict, format_verdict(claim)) for claim in claims] == [
        ("shown", None, ""),
        ("right", "fails", "✗ fails"),
    ]
    assert [each["id"] for each in claims_json(claims)] == ["right"]


def test_a_ratio_that_is_at_least_so_much_can_hold_and_cannot_fail() -> None:
    by_seed = {seed: {"ratio": Reading(value, bound=bound)}
               for seed, (value, bound) in enumerate(((30.0, ""), (40.0, "at least"), (35.0, "")))}  # fmt: skip
    (claim,) = judge([RATIO], by_seed)
    assert claim.interval is not None
    assert claim.interval[0] == pytest.approx(24.3, abs=0.1)
    assert (claim.interval[1], claim.verdict) == (None, "holds")
    assert format_measured(claim) == "at least 34.8 x"
    assert format_interval(claim) == "24.3 or more"
    whole = dataclasses.replace(claim, unit="steps", measured=600.0, interval=(600.0, None))
    assert (format_measured(whole), format_interval(whole)) == ("at least 600", "600 or more")
    assert format_interval(dataclasses.replace(whole, interval=(599.5, 700.0))) == "599.5 to 700"
    nearly = dataclasses.replace(whole, measured=600 - 1e-9, interval=(600 - 1e-9, None))
    assert (format_measured(nearly), format_interval(nearly)) == ("at least 600", "600 or more")
    assert [format_number(-0.04, 1), format_number(-0.4, sign=True), format_number(1.25, 1)] == ["0.0", "+0", "1.2"]
    (late,) = judge([RATIO], {seed: {"ratio": Reading(1.0 + seed / 9, bound="at least")} for seed in range(3)})
    assert late.verdict == "undecided", "what was capped may be anything above"
    (early,) = judge([RATIO], {seed: {"ratio": Reading(1.0 + seed / 9, bound="at most")} for seed in range(3)})
    assert (early.verdict, format_measured(early), format_interval(early)) == ("fails", "at most 1.1 x", "up to 1.4")


def test_a_share_short_of_a_bar_close_to_one_is_not_printed_as_one() -> None:
    area = Measurement("auc", "Area under the curve", "share", bar=">= 0.99")
    (claim,) = judge([area], {seed: {"auc": Reading(0.984, rows=10_000)} for seed in range(3)})
    assert claim.verdict == "fails"
    assert format_measured(claim) == "0.984"
    ends = [float(end) for end in format_interval(claim).split(" to ")]
    assert ends == pytest.approx(list(claim.interval or ()), abs=5e-4)


@pytest.mark.parametrize(("bar", "ends", "printed"), [
    (">= 99", (98.97, 99.6), "98.97 to 99.6"), (">= 99", (98.5, 98.96), "98.5 to 98.96"),
    (">= 99", (99.04, 99.6), "99.0 to 99.6"), ("<= 5", (0.9, 5.02), "0.9 to 5.02"), ("<= 5", (0.9, 4.98), "0.9 to 5.0"),
    ("<= 5", (0.9, 5.0), "0.9 to 5.0"), ("<= 5", (4.9996, 5.0004), "5.0 to 5.0004"),
    (">= 1.5", (1.4999, 1.8), "1.4999 to 1.8"), ("", (98.97, 99.6), "99.0 to 99.6"),
])  # fmt: skip
def test_no_end_is_rounded_past_the_bar(bar: str, ends: tuple[float, float], printed: str) -> None:
    (claim,) = judge([Measurement("a", "s", "%", bar=bar)], {seed: {"a": Reading(50.0, rows=9)} for seed in range(2)})
    assert format_interval(dataclasses.replace(claim, interval=ends)) == printed


def test_the_floor_is_that_of_all_seeds_or_of_none() -> None:
    (claim,) = judge([RIGHT], {seed: {"right": Reading(99.0, rows=99, floor=20.0 + seed)} for seed in range(3)})
    assert (claim.floor, format_floor(claim)) == (21, "21.0 %")
    (claim,) = judge([RIGHT], {seed: {"right": Reading(99.0, floor=None if seed else 20.0)} for seed in range(3)})
    assert (claim.floor, format_floor(claim)) == (None, "—")


def test_the_file_has_the_promised_fields_and_is_read_again(tmp_path: Path) -> None:
    by_seed = {seed: {"right": Reading(99.0, rows=5000, floor=20.0), "ratio": Reading(9.0 + seed, bound="at least")}
               for seed in (0, 1)}  # fmt: skip
    claims = judge([RIGHT, RATIO], by_seed)
    (tmp_path / "claims.json").write_text(json.dumps(claims_json(claims)))
    saved = json.loads((tmp_path / "claims.json").read_text())
    for each in saved:
        assert set(each) == {"id", "statement", "paper", "measured", "interval", "bar", "verdict", "seeds", "floor",
                             "values", "unit"}  # fmt: skip
    assert (saved[0]["verdict"], saved[0]["floor"], saved[0]["seeds"]) == ("holds", 20, [0, 1])
    assert saved[1]["interval"][1] is None
    assert read_claims(tmp_path) == claims


def test_a_claim_that_says_the_same_is_named_behind_the_one_before_it() -> None:
    """Two rows may say "The same, at most"; which is meant is what they stand below."""
    said = ("First rises", "The same, at most", "Second falls", "Made after looking: the same of others",
            "The same, at most", "Control: nothing")  # fmt: skip
    names = name_claims([Measurement(str(number), each, "%") for number, each in enumerate(said)])
    assert [*names.values()] == [
        "First rises", "First rises. The same, at most", "Second falls",
        "Second falls. Made after looking: the same of others", "Second falls. The same, at most", "Control: nothing",
    ]  # fmt: skip
    assert name_claims([Measurement("x", "The same of nothing", "%")]) == {"x": "The same of nothing"}


def test_results_of_an_older_version_are_refused(tmp_path: Path) -> None:
    old = {"id": "right", "statement": "s", "paper": "p", "measured": 99.0, "interval": [98.0, 100.0], "bar": ">= 90",
           "holds": True, "seeds": [0, 1], "values": [98.5, 99.5], "unit": "%"}  # fmt: skip
    (tmp_path / "claims.json").write_text(json.dumps([old]))
    with pytest.raises(ValueError, match=r"claims\.json: written by another version; run the study again") as refused:
        read_claims(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_claim_that_holds_while_a_control_is_undecided_says_so(tmp_path: Path) -> None:
    """It is not withdrawn, and whoever reads its verdict sees that it may have been found where it must not be."""
    claimed = Measurement("claimed", "It happens", "%", bar=">= 50", controls=("wrong", "right"))
    wrong = Measurement("wrong", "It happens there too", "%", bar="<= 10")
    right = Measurement("right", "Nor there", "%", bar="<= 10")
    readings = {"claimed": Reading(90.0, rows=1000), "wrong": Reading(9.0, rows=100), "right": Reading(1.0, rows=1000)}
    claims = judge([claimed, wrong, right], {0: readings})
    assert [each.verdict for each in claims] == ["holds", "undecided", "holds"]
    assert (claims[0].open_controls, claims[1].open_controls) == (["wrong"], [])
    assert format_verdict(claims[0]) == "✓ holds; control wrong is undecided"
    assert format_verdict(claims[0], claims) == "✓ holds; its control *It happens there too* is undecided"
    assert [format_verdict(each, claims) for each in claims[1:]] == ["? undecided", "✓ holds"]
    assert count_verdicts(claims) == "2 hold, 1 undecided"
    written = claims_json(claims)
    assert ["open_controls" in each for each in written] == [True, False, False]
    (tmp_path / "claims.json").write_text(json.dumps(written))
    assert read_claims(tmp_path)[0].open_controls == ["wrong"]
    short = judge([claimed, wrong, right], {0: {**readings, "claimed": Reading(10.0, rows=1000)}})
    assert short[0].open_controls == []


def test_a_claim_whose_control_fails_is_withdrawn_and_says_by_what(tmp_path: Path) -> None:
    """What holds is found where it must not be: the control must stay below its bar, and is above it."""
    claimed = RIGHT._replace(controls=("wrong", "ratio"))
    there = {"right": Reading(99.0, rows=900), "wrong": Reading(96.0, rows=900), "ratio": Reading(9.0, rows=900)}
    fine = there | {"wrong": Reading(1.0, rows=900)}
    open_ = there | {"wrong": Reading(20.0, rows=900)}
    (claim, control, _) = judge([claimed, WRONG, RATIO], {0: there})
    assert (claim.verdict, claim.withdrawn_by, control.verdict) == ("withdrawn", ["wrong"], "fails")
    assert format_verdict(claim) == "⊘ withdrawn: control wrong fails"
    assert format_verdict(claim, [claim, control]) == f"⊘ withdrawn: its control *{WRONG.statement}* fails"
    assert count_verdicts([claim, control]) == "1 fails, 1 withdrawn"
    (tmp_path / "claims.json").write_text(json.dumps(claims_json([claim, control])))
    assert read_claims(tmp_path) == [claim, control]
    assert ["withdrawn_by" in each for each in json.loads((tmp_path / "claims.json").read_text())] == [True, False]
    for rows in (fine, open_):  # a control that stays in its place, and one of which nobody knows
        assert judge([claimed, WRONG, RATIO], {0: rows})[0].verdict == "holds"
    short = {**there, "right": Reading(50.0, rows=900)}
    assert judge([claimed, WRONG, RATIO], {0: short})[0].verdict == "fails"  # withdrawn is what would hold
    assert judge([claimed, WRONG, RATIO], {0: there, 1: {"right": 99.0}})[0].verdict is not None


def test_a_claim_whose_control_was_not_measured_is_not_judged_and_says_so(tmp_path: Path) -> None:
    """A control whose run failed might have withdrawn it; one that fails anyway needs no control for that."""
    claimed = RIGHT._replace(controls=("wrong",))
    whole = {"right": Reading(99.0, rows=900), "wrong": Reading(1.0, rows=900)}
    alone = {"right": Reading(99.0, rows=900)}
    for seeds in ({0: alone, 1: alone}, {0: whole, 1: alone}):
        claim = judge([claimed, WRONG], seeds)[0]
        assert (claim.verdict, claim.unmeasured) == (None, ["wrong"])
        assert format_verdict(claim) == "not judged: control wrong is not measured"
        (tmp_path / "claims.json").write_text(json.dumps(claims_json([claim])))
        assert read_claims(tmp_path) == [claim]
    assert judge([claimed, WRONG], {0: whole, 1: whole})[0].verdict == "holds"
    short = judge([claimed, WRONG], {0: {"right": Reading(50.0, rows=900)}})[0]
    assert (short.verdict, short.unmeasured) == ("fails", [])
    several = judge([RIGHT._replace(controls=("wrong", "ratio")), WRONG, RATIO], {0: alone})[0]
    assert format_verdict(several) == "not judged: controls wrong, ratio are not measured"
    assert format_verdict(several, [several]) == "not judged: its controls wrong, ratio are not measured"


def test_the_controls_of_a_claim_are_claims() -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        judge([RIGHT._replace(controls=("nowhere",))], {0: {"right": 99.0}})


def test_verdicts_are_counted_in_words() -> None:
    by_seed = {0: {"right": Reading(99.0, rows=900), "wrong": Reading(50.0, rows=900), "ratio": 9.0, "shown": 1.0}}
    assert count_verdicts(judge([RIGHT, WRONG, RATIO, SHOWN], by_seed)) == "1 holds, 1 fails, 1 undecided"
    twice = {"right": Reading(99.0, rows=900), "wrong": Reading(1.0, rows=900)}
    assert count_verdicts(judge([RIGHT, WRONG], {0: twice})) == "2 hold"
    assert count_verdicts(judge([RIGHT, WRONG], {0: twice, 1: {}})) == "2 not judged"


def test_the_bars_are_the_agreed_ones() -> None:
    assert {m.id: m.bar for m in MEASUREMENTS if m.bar} == {
        "base_low_a": ">= 95", "base_low_b": "<= 40", "base_high_a": ">= 95", "base_high_b": ">= 95",
        "low_b_cte1": ">= 95", "low_b_cte0": "<= 10", "low_a": "<= 40", "high_b_cte0": ">= 80", "high_a": ">= 80",
        "gain_a": ">= 50", "control_gain_a": "<= 10", "tuned_control_gain_a": "<= 10", "probe_gap": "<= 10",
        "probe_lead": ">= 0", "revival_ratio": ">= 1.5",
    }  # fmt: skip


def test_a_claim_and_its_controls_are_of_one_unit_where_they_are_of_one_measurement() -> None:
    """What comes back is a gain, as in the controls: a seed that lost little has little to bring back."""
    units = {each.id: each.unit for each in MEASUREMENTS}
    (pruned,) = (each for each in MEASUREMENTS if each.id == "gain_a")
    assert {units[control] for control in pruned.controls} == {pruned.unit}
    assert "pruned_a" in units  # where it ends is told, without a bar


def test_what_the_paper_says_and_in_which_unit() -> None:
    units = {each.id: each.unit for each in MEASUREMENTS}
    others = {
        "gain_a": "points", "control_gain_a": "points", "tuned_control_gain_a": "points", "probe_lead": "points",
        "probe_gap": "points", "probe_shuffled": "points", "revival_ratio": "x", "revival_steps": "steps",
        "control_revival_steps": "steps", "best_k": "neurons",
    }  # fmt: skip
    assert units == {name: others.get(name, "%") for name in units}
    numbers = {each.id: each.paper.split(" (")[0] for each in MEASUREMENTS if "Table" in each.paper}
    assert numbers == {
        "base_low_a": "100", "base_low_b": "27.1", "base_high_a": "99.9", "base_high_b": "99.9", "low_b_cte1": "99.9",
        "low_b_cte0": "0", "low_a": "2.3", "high_b_cte0": "99.9", "high_a": "100",
    }  # fmt: skip
