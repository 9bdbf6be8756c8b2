from __future__ import annotations

import math

import pytest

from ftmech_hf.report.claims import claims_json, judge, meets, seed_interval
from ftmech_hf.studies.pcfg.claims import MEASUREMENTS


def values(**changes: float) -> dict[str, float]:
    """A seed in which every bar is met exactly."""
    met = {m.id: float(m.bar.split()[1]) if m.bar else 1.0 for m in MEASUREMENTS}
    return met | changes


def test_every_bar_is_met_at_its_edge_and_missed_beyond_it() -> None:
    assert all(claim.holds for claim in judge(MEASUREMENTS, {0: values()}) if claim.bar)
    for measurement in MEASUREMENTS:
        if measurement.bar:
            beyond = -0.01 if measurement.bar.startswith(">=") else 0.01
            missed = judge(MEASUREMENTS, {0: values(**{measurement.id: values()[measurement.id] + beyond})})
            assert [claim.id for claim in missed if claim.holds is False] == [measurement.id]


def test_the_bars_are_the_agreed_ones() -> None:
    assert {m.id: m.bar for m in MEASUREMENTS if m.bar} == {
        "base_low_a": ">= 99", "base_low_b": "<= 40", "base_high_a": ">= 97", "base_high_b": ">= 97",
        "low_b_cte1": ">= 99", "low_b_cte0": "<= 5", "low_a": "<= 20", "high_b_cte0": ">= 80", "high_a": ">= 80",
        "pruned_a": ">= 80", "random_pruned_a": "<= 25", "probe_gap": "<= 10", "probe_shuffled": "<= 5",
        "revival_ratio": ">= 5",
    }  # fmt: skip


def test_mean_and_interval_over_seeds() -> None:
    claims = {
        c.id: c for c in judge(MEASUREMENTS, {n: values(revival_ratio=v) for n, v in enumerate((6.0, 8.0, 13.0))})
    }
    ratio = claims["revival_ratio"]
    assert ratio.measured == pytest.approx(9)
    # Student's t with two degrees of freedom: 4.303 standard errors, the standard deviation is sqrt(13)
    half = 4.30265273 * math.sqrt(13) / math.sqrt(3)
    assert ratio.interval == pytest.approx((max(0, 9 - half), 9 + half), rel=1e-6)
    assert ratio.seeds == [0, 1, 2]
    assert ratio.values == [6, 8, 13]


def test_intervals_stay_within_what_is_possible_and_one_seed_has_none() -> None:
    assert seed_interval([99.0, 100.0, 100.0], unit="%")[1] == 100  # type: ignore[index]
    assert seed_interval([1.0, 0.0, 0.0], unit="%")[0] == 0  # type: ignore[index]
    assert seed_interval([-1.0, 0.0, 0.0], unit="points")[0] < -1  # type: ignore[index]
    assert seed_interval([5.0, 5.0], unit="x") == (5, 5)
    assert seed_interval([5.0], unit="x") is None


def test_the_json_has_the_promised_fields() -> None:
    for claim in claims_json(judge(MEASUREMENTS, {0: values(), 1: values()})):
        assert {"id", "statement", "paper", "measured", "interval", "bar", "holds", "seeds"} <= set(claim)
        assert claim["seeds"] == [0, 1]
    assert meets(5, "<= 5")
    assert not meets(5.1, "<= 5")


def test_what_cannot_be_more_than_all_is_cut_there() -> None:
    assert seed_interval([0.9, 1.0, 1.0], unit="share")[1] == 1  # type: ignore[index]
    assert seed_interval([0.1, 0.0, 0.0], unit="share")[0] == 0  # type: ignore[index]
    assert seed_interval([1.0, 2.0], unit="x")[1] > 100 / 18  # type: ignore[index]  # no ceiling: 1.5 + 12.7 x 0.5
    assert seed_interval([-4.0, 4.0], unit="steps")[0] == 0  # type: ignore[index]


def test_a_claim_says_what_was_measured_and_how() -> None:
    claims = {claim.id: claim for claim in judge(MEASUREMENTS, {7: values(base_low_b=41.0)})}
    low = claims["base_low_b"]
    assert (low.measured, low.interval, low.holds, low.seeds, low.values) == (41, None, False, [7], [41])
    assert (low.bar, low.unit, low.paper) == ("<= 40", "%", "27.1 (Table 5)")
    assert (claims["chance"].holds, claims["chance"].bar, claims["chance"].paper) == (None, "", "not reported")
    assert [claim.id for claim in judge(MEASUREMENTS, {7: values()})] == [each.id for each in MEASUREMENTS]
    assert {claim["id"] for claim in claims_json(list(claims.values()))} == {m.id for m in MEASUREMENTS if m.bar}


def test_what_the_paper_says_and_in_which_unit() -> None:
    units = {each.id: each.unit for each in MEASUREMENTS}
    others = {
        "probe_gap": "points", "probe_shuffled": "points", "revival_ratio": "x", "revival_steps": "steps",
        "control_revival_steps": "steps", "best_k": "neurons",
    }  # fmt: skip
    assert units == {name: others.get(name, "%") for name in units}
    numbers = {each.id: each.paper.split(" (")[0] for each in MEASUREMENTS if "Table" in each.paper}
    assert numbers == {
        "base_low_a": "100", "base_low_b": "27.1", "base_high_a": "99.9", "base_high_b": "99.9", "low_b_cte1": "99.9",
        "low_b_cte0": "0", "low_a": "2.3", "high_b_cte0": "99.9", "high_a": "100",
    }  # fmt: skip
