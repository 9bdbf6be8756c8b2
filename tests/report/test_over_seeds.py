"""Numbers over seeds, in tables and in claims: which are joined, which interval they have, and what is left out."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.report.claims import Measurement, judge, over_seeds, read_claims, seed_interval

ROWS = pd.DataFrame(
    [
        {"task": task, "model": model, "seed": seed, "value": value, "low": value - 0.1, "high": value + 0.2}
        for (task, model), values in {
            ("b", "one"): [0.5, 0.7], ("a", "one"): [0.25], ("b", None): [0.1, 0.2, 0.3],
        }.items()
        for seed, value in enumerate(values)
    ]
)  # fmt: skip


def test_every_combination_is_one_number_over_its_seeds_in_the_order_of_the_table() -> None:
    found = over_seeds(ROWS, ["task", "model"], "share")
    assert list(found) == ["task", "model", "n", "mean", "low", "high"]
    assert found["task"].tolist() == ["b", "a", "b"]
    assert found["n"].tolist() == [2, 1, 3]
    assert found["mean"].tolist() == pytest.approx([0.6, 0.25, 0.2])
    # Student's t over seeds, cut at 0 and 1; one seed keeps its own
    assert found["low"].tolist() == pytest.approx([0.0, 0.15, 0.0])
    high = 0.2 + 4.302652729911275 * 0.1 / math.sqrt(3)
    assert found["high"].tolist() == pytest.approx([1.0, 0.45, high])


def test_a_number_of_one_seed_has_no_interval_if_the_table_has_none() -> None:
    found = over_seeds(ROWS.drop(columns=["low", "high"]), ["task", "model"], "share")
    assert found["low"].isna().tolist() == found["high"].isna().tolist() == [False, True, False]
    assert list(over_seeds(ROWS.iloc[:0], ["task"], "share")) == ["task", "n", "mean", "low", "high"]


def test_the_unit_may_depend_on_the_number() -> None:
    found = over_seeds(ROWS, ["task"], lambda rows: "points" if len(rows) > 2 else "share")
    expected = seed_interval([0.5, 0.7, 0.1, 0.2, 0.3], unit="points")
    assert expected is not None
    assert (found["low"].iloc[0], found["high"].iloc[0]) == pytest.approx(expected)
    assert found["low"].iloc[0] < 0.15


CLAIMED = (
    Measurement("gain", "It comes back", "points", "+3", ">= 5"),
    Measurement("steps", "It takes few steps", "steps", bar="<= 9"),
    Measurement("size", "How many there are", "neurons"),
    Measurement("never", "What nobody measured", "%", bar=">= 1"),
)


def test_what_some_seeds_lack_is_reported_and_not_judged() -> None:
    gain, steps, size = judge(CLAIMED, {3: {"gain": 6.0, "steps": 4.0, "size": 2.0}, 5: {"gain": 4.5, "size": 4.0}})
    assert (gain.seeds, gain.values, gain.measured, gain.unit) == ([3, 5], [6.0, 4.5], 5.25, "points")
    assert gain.interval == seed_interval([6.0, 4.5], unit="points")
    assert (steps.seeds, steps.measured, steps.holds) == ([3], 4.0, None)
    assert (size.holds, size.bar, size.paper) == (None, "", "not reported")


def test_one_seed_has_the_interval_that_it_allows_alone() -> None:
    gain, steps = judge(CLAIMED, {3: {"gain": 6.0, "steps": 4.0}}, {"gain": (1.0, 7.0)})
    assert (gain.interval, steps.interval) == ((1.0, 7.0), None)
    assert judge(CLAIMED, {3: {"gain": 6.0}})[0].interval is None
    several = judge(CLAIMED, {3: {"gain": 6.0}, 4: {"gain": 6.0}}, {"gain": (1.0, 7.0)})
    assert several[0].interval == (6.0, 6.0)


def test_claims_are_read_as_they_were_written(tmp_path: Path) -> None:
    claims = judge(CLAIMED, {3: {"gain": 6.0, "steps": 4.0}})
    (tmp_path / "claims.json").write_text(json.dumps([asdict(each) for each in claims]))
    assert read_claims(tmp_path) == claims
