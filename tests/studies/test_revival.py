from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ftmech_hf.studies.questions import Questions
from ftmech_hf.studies.revival import looks, revive
from ftmech_hf.training.objectives import answer_accuracy


def constant_answers() -> Questions:
    torch.manual_seed(0)
    rows = torch.randint(3, 40, (96, 10))
    rows[:, -2] = 5
    return Questions("constant", rows[:32], rows[32:64], rows[64:], rows[:32])


SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 16, "eval_rows": 32}


def test_it_stops_where_the_threshold_is_reached_and_leaves_the_model_alone(any_model: PreTrainedModel) -> None:
    questions = constant_answers()
    before = {name: p.clone() for name, p in any_model.named_parameters()}
    curve = revive(any_model, questions, steps=60, threshold=0.95, **SETTINGS)
    assert all(torch.equal(p, before[name]) for name, p in any_model.named_parameters())
    assert curve.steps is not None
    assert 0 < curve.steps < 60
    assert max(curve.points) == curve.steps
    assert curve.points[curve.steps] >= 0.95 > max(value for step, value in curve.points.items() if step < curve.steps)
    assert answer_accuracy(curve.model, questions.test) == curve.points[curve.steps]
    again = revive(any_model, questions, steps=60, threshold=0.95, **SETTINGS)
    assert again.points == curve.points


def test_it_gives_up_after_the_last_step_and_needs_none_for_what_is_there(any_model: PreTrainedModel) -> None:
    questions = constant_answers()
    curve = revive(any_model, questions, steps=2, threshold=0.95, **{**SETTINGS, "lr": 1e-6})
    assert (curve.steps, list(curve.points)) == (None, [0, 1, 2])
    assert revive(any_model, questions, steps=2, threshold=0.0, **SETTINGS).steps == 0


def test_looks_are_dense_at_first_and_end_with_the_last() -> None:
    assert looks(10) == [0, 1, 2, 3, 4, 5, 7, 9, 10]
    assert looks(0) == [0]
    assert looks(160)[-1] == 160
    assert len(looks(160)) < 25
