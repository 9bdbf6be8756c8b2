from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.studies.diagnosis.finetuning import evaluated_steps, race, revive
from ftmech_hf.training.evaluation import answer_accuracy
from tests.conftest import make_gpt2
from tests.studies.planted import ask, make_rows


def constant_answers() -> Behavior:
    torch.manual_seed(0)
    rows = torch.randint(3, 40, (96, 10))
    rows[:, -2] = 5
    train, validation, test = (AnswerRows.one_token(part) for part in (rows[:32], rows[32:64], rows[64:]))
    return Behavior(name="constant", train=train, validation=validation, tests={"test": test})


SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 16, "eval_rows": 32}


def test_it_stops_where_the_threshold_is_reached_and_leaves_the_model_alone(any_model: PreTrainedModel) -> None:
    questions = constant_answers()
    before = {name: p.clone() for name, p in any_model.named_parameters()}
    curve = revive(any_model, questions, steps=60, threshold=0.95, **SETTINGS)
    assert all(torch.equal(p, before[name]) for name, p in any_model.named_parameters())
    assert curve.steps is not None
    assert 0 < curve.steps < 60
    assert curve.last == curve.steps + 1  # it was still there a step later
    assert curve.points[curve.steps] >= 0.95 > max(value for step, value in curve.points.items() if step < curve.steps)
    assert answer_accuracy(curve.model, questions.test.token_ids) == curve.points[curve.last] >= 0.95
    again = revive(any_model, questions, steps=60, threshold=0.95, **SETTINGS)
    assert again.points == curve.points


def test_it_gives_up_after_the_last_step_and_needs_none_for_what_is_there(any_model: PreTrainedModel) -> None:
    questions = constant_answers()
    curve = revive(any_model, questions, steps=2, threshold=0.95, **{**SETTINGS, "lr": 1e-6})
    assert (curve.steps, list(curve.points)) == (None, [0, 1, 2])
    assert revive(any_model, questions, steps=2, threshold=0.0, **SETTINGS).steps == 0


def test_evaluations_are_dense_at_first_and_end_with_the_last() -> None:
    assert evaluated_steps(10) == [0, 1, 2, 3, 4, 5, 7, 9, 10]
    assert evaluated_steps(0) == [0]
    assert evaluated_steps(160)[-1] == 160
    assert len(evaluated_steps(160)) < 25


def test_a_model_that_only_touches_the_threshold_is_not_back() -> None:
    """At a rate far too high accuracy jumps about: what is above once and below a step later does not count."""
    model, questions = make_gpt2(40), ask(make_rows(number=900))
    settings = {"seed": 0, "lr": 0.03, "batch_size": 16, "eval_rows": 50, "steps": 40}
    free = revive(model, questions, threshold=2, **settings).points
    touched = next(step for step in range(4) if free[step] > 1.5 * max(free[step + 1], 0.1))
    curve = revive(model, questions, threshold=free[touched], **settings)
    assert curve.points[touched] >= free[touched] > curve.points[touched + 1]
    assert curve.steps is not None
    assert curve.steps > touched
    assert min(curve.points[curve.steps], curve.points[curve.steps + 1]) >= free[touched]


def test_a_hit_at_the_last_step_is_confirmed_by_one_more() -> None:
    questions = constant_answers()
    steps = revive(make_gpt2(40), questions, steps=60, threshold=0.95, **SETTINGS).steps
    assert steps is not None
    curve = revive(make_gpt2(40), questions, steps=steps, threshold=0.95, **SETTINGS)
    assert (curve.steps, curve.last) == (steps, steps + 1)
    assert revive(make_gpt2(40), questions, steps=steps - 1, threshold=0.95, **SETTINGS).steps is None


def test_a_race_ends_when_one_is_back() -> None:
    questions, settings = constant_answers(), {**SETTINGS, "threshold": 0.95}
    alone = revive(make_gpt2(40), questions, steps=60, **settings)
    assert alone.steps is not None
    nearly, never = alone.model, make_gpt2(40)
    # the control is back first: the other is as far, and not back
    first, second = race((slow(never), never), questions, steps=60, beyond=2, **settings)
    assert (first.steps, second.steps) == (None, alone.steps)
    assert alone.steps <= first.last <= 2 * alone.steps
    assert second.points == alone.points
    # the first is back: the control is followed for twice as long and no longer
    first, second = race((never, slow(never)), questions, steps=60, beyond=2, **settings)
    assert (first.steps, second.steps) == (alone.steps, None)
    assert 2 * alone.steps <= second.last <= 3 * alone.steps
    # neither is back
    first, second = race((slow(never), slow(never)), questions, steps=5, beyond=2, **settings)
    assert (first.steps, second.steps) == (None, None)
    assert 5 <= first.last == second.last <= 10
    # back before the first step
    first, second = race((nearly, nearly), questions, steps=5, beyond=2, **settings)
    assert (first.steps, second.steps) == (0, 0)


def slow(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose answers training does not reach: it always names the first token."""
    frozen = copy.deepcopy(model)
    frozen.lm_head.register_forward_hook(lambda module, args, output: output * 0)
    return frozen


def test_what_dropout_draws_depends_on_the_seed_alone() -> None:
    model, questions = make_gpt2(40), constant_answers()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    settings = {"lr": 1e-3, "batch_size": 16, "eval_rows": 32, "steps": 4, "threshold": 2.0}
    curves = []
    for seed, drawn in ((0, 0), (0, 7), (1, 0)):
        torch.rand(drawn)
        before = torch.random.get_rng_state()
        curves.append(revive(model, questions, seed=seed, **settings).model)
        assert torch.equal(torch.random.get_rng_state(), before)
    first, again, other = ([p.detach() for p in each.parameters()] for each in curves)
    assert all(torch.equal(one, same) for one, same in zip(first, again, strict=True))
    assert not all(torch.equal(one, same) for one, same in zip(first, other, strict=True))
    without = revive(make_gpt2(40), questions, seed=0, **settings).model
    assert not all(torch.equal(one, same.detach()) for one, same in zip(first, without.parameters(), strict=True))
