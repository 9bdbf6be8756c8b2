from __future__ import annotations

import math

import numpy as np
import pytest

from ftmech_hf.analysis.continual import leads, measure_continual

TUNED = [[0.1, 0.2, 0.3], [0.9, 0.25, 0.35], [0.95, 0.8, 0.5], [0.4, 0.6, 1.0]]
NEVER = [[1.0, 0.9], [0.8, 0.9], [0.5, 0.7], [0.6, 0.2]]


def test_the_numbers_are_those_of_their_formulas() -> None:
    found = measure_continual(TUNED, NEVER, probes=[[0.7, 0.6], [0.72, 0.64]], single=[0.9, 0.9, 1.0])
    assert found.accuracy == pytest.approx((0.4 + 0.6 + 1.0) / 3)
    assert found.backward_transfer == pytest.approx(((0.4 - 0.9) + (0.6 - 0.8)) / 2)
    assert found.forward_transfer == pytest.approx(((0.25 - 0.2) + (0.5 - 0.3)) / 2)
    assert found.forgetting == pytest.approx(((0.95 - 0.4) + (0.8 - 0.6)) / 2)
    assert found.learned == pytest.approx((0.9 + 0.8 + 1.0) / 3)
    assert found.concept_loss == pytest.approx((0.4 + 0.7) / 2)
    assert found.probe_change == pytest.approx(0.03)
    assert found.plasticity_gap == pytest.approx((0.0 + 0.1 + 0.0) / 3)
    assert found.summary()["learned"] == found.learned


def test_a_model_that_keeps_all_has_lost_nothing() -> None:
    rng = np.random.default_rng(0)
    same = np.tile(rng.random(4), (5, 1))
    found = measure_continual(same, same, probes=same[:2], single=same[0])
    zeros = (found.backward_transfer, found.forward_transfer, found.forgetting, found.concept_loss)
    assert zeros == (0, 0, 0, 0)
    assert found.probe_change == found.plasticity_gap == 0


def test_numbers_depend_on_the_order_of_tasks() -> None:
    """The control: the same accuracies with rows or columns exchanged are another history."""
    found = measure_continual(TUNED, NEVER)
    for other in (TUNED[:1] + TUNED[:0:-1], [row[::-1] for row in TUNED]):
        changed = measure_continual(other, NEVER)
        assert changed.forgetting != pytest.approx(found.forgetting)
        assert changed.learned != pytest.approx(found.learned)
    assert measure_continual(TUNED, NEVER[::-1]).concept_loss == pytest.approx(-found.concept_loss)


def test_what_was_known_before_a_task_was_learned_is_not_forgotten_after_it() -> None:
    """The best is of what comes after a task: learning it to less than it was known is no forgetting of later ones."""
    found = measure_continual([[0.1, 0.2, 0.1], [0.9, 0.95, 0.1], [0.9, 0.8, 0.1], [0.9, 0.7, 0.9]], np.ones((4, 1)))
    assert found.forgetting == pytest.approx((0.0 + 0.1) / 2)
    assert found.forward_transfer == pytest.approx((0.75 + 0.0) / 2)


def test_the_last_task_is_no_best_that_is_lost() -> None:
    """Chaudhry et al.: the best is of the models before the last, so that a task can end better than it ever was."""
    found = measure_continual([[0.1, 0.1, 0.1], [0.5, 0.1, 0.1], [0.6, 0.8, 0.1], [0.9, 0.7, 0.9]], np.ones((4, 1)))
    assert found.forgetting == pytest.approx(((0.6 - 0.9) + (0.8 - 0.7)) / 2)


def test_forgetting_is_at_least_what_backward_transfer_says() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        found = measure_continual(rng.random((5, 4)), rng.random((5, 2)))
        assert found.forgetting >= -found.backward_transfer - 1e-12


def test_one_task_has_nothing_to_be_transferred_to() -> None:
    found = measure_continual([[0.1], [0.9]], [[1.0], [0.5]])
    assert found.accuracy == found.learned == 0.9
    assert math.isnan(found.backward_transfer)
    assert math.isnan(found.forward_transfer)
    assert found.probe_change is None
    assert found.plasticity_gap is None


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tuned: shape \(3, 3\), expected \(tasks \+ 1, tasks\)"):
        measure_continual(TUNED[1:], NEVER[1:])
    with pytest.raises(ValueError, match=r"never_tuned: shape \(3, 2\), expected 4 rows"):
        measure_continual(TUNED, NEVER[1:])


def test_leads_are_above_their_floors() -> None:
    assert leads({"a": 0.6, "b": 0.2}, {"a": 0.2, "b": 0.2}) == pytest.approx({"a": 0.5, "b": 0.0})
