from __future__ import annotations

import pytest

from ftmech_hf.analysis.forgetting import measure_forgetting

CURVE = [
    {"step": 0, "eval_rows": 8, "accuracy/count_a": 1.0, "accuracy/count_b": 0.25},
    {"step": 5, "eval_rows": 8, "loss": 1.0, "accuracy/count_a": 0.9, "accuracy/count_b": 0.5},
    {"step": 9, "eval_rows": 8, "loss": 0.5, "accuracy/count_a": 0.375, "accuracy/count_b": 0.75},
]


def test_the_first_evaluation_is_compared_with_the_last() -> None:
    result = measure_forgetting(CURVE)
    assert result.change == {"count_a": -0.625, "count_b": 0.5}
    assert result.rows()[0] == {"test_set": "count_a", "before": 1.0, "after": 0.375, "change": -0.625}
    assert result.summary() == {"most_forgotten": "count_a", "most_gained": "count_b"}


def test_a_run_without_steps_forgets_nothing() -> None:
    result = measure_forgetting(CURVE[:1])
    assert set(result.change.values()) == {0.0}
    assert result.summary() == {"most_forgotten": None, "most_gained": None}


def test_what_gained_least_was_not_forgotten() -> None:
    gained = measure_forgetting(
        [{"step": 0, "accuracy/a": 0.2, "accuracy/b": 0.3}, {"step": 9, "accuracy/a": 0.9, "accuracy/b": 0.5}]
    )
    assert gained.summary() == {"most_forgotten": None, "most_gained": "a"}


def test_no_evaluation_is_an_error() -> None:
    with pytest.raises(ValueError, match="holds no evaluation"):
        measure_forgetting([])
    nothing = measure_forgetting([{"step": 1, "loss/x": 1.0}])  # of losses alone, as stories have
    assert nothing.change == nothing.summary() == {}
