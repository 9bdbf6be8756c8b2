from __future__ import annotations

import pytest

from ftmech_hf.analysis.revival import steps_to_revival

CURVE = [{"step": step, "accuracy/count_a": value} for step, value in ((0, 0.1), (3, 0.94), (5, 0.95), (9, 0.2))]


def test_the_first_step_at_the_threshold_counts() -> None:
    result = steps_to_revival(CURVE, "count_a", threshold=0.95)
    assert (result.steps, result.last_step, result.at_least) == (5, 9, 5)
    assert steps_to_revival(CURVE, "count_a", threshold=0.1).steps == 0


def test_a_capability_that_never_comes_back_is_a_lower_bound() -> None:
    result = steps_to_revival(CURVE, "count_a", threshold=0.99)
    assert result.steps is None
    assert result.at_least == 9
    with pytest.raises(ValueError, match="holds no evaluation"):
        steps_to_revival([], "count_a")
