from __future__ import annotations

import pytest

from ftmech_hf.training.cost_estimate import Clock, project


def test_the_projection_leaves_out_the_first_steps_and_counts_evaluations() -> None:
    clock = Clock()
    clock.step_seconds = [60.0, 9.0, 9.0, 2.0, 2.0, 5.0]
    clock.evaluation_seconds, clock.evaluated_rows = 3.0, 30
    found = project(clock, 1800, 36_000, 1e12, None)
    assert found["seconds_per_step"] == 2.0
    assert found["hours"] == pytest.approx((1800 * 2 + 36_000 * 0.1) / 3600)
    assert found["evaluation_share"] == pytest.approx(0.5)
    assert "cost" not in found
    assert project(clock, 1800, 36_000, 1e12, 3.0)["cost"] == pytest.approx(6.0)


def test_a_clock_counts_what_it_is_shown() -> None:
    clock = Clock(exact=True)
    with clock.step(), clock.evaluation(7):
        pass
    assert len(clock.step_seconds) == 1
    assert clock.evaluated_rows == 7
    assert 0 <= clock.evaluation_seconds <= clock.step_seconds[0] < 1
