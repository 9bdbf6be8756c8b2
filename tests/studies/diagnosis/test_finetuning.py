from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import given_answers
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.studies.diagnosis.answer_training import kept_as
from ftmech_hf.studies.diagnosis.finetuning import (
    accuracy_near,
    evaluated_steps,
    race,
    revive,
    self_distil,
    taught,
)
from ftmech_hf.training.evaluation import answer_accuracy
from ftmech_hf.training.low_rank import LowRankChange, change_of
from tests.conftest import make_gpt2


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
    *earlier, one, other = curve.points.items()
    assert one[0] == curve.steps
    assert min(one[1], other[1]) >= 0.95
    assert max(value for _, value in earlier) < 0.95
    asked = [questions.test.token_ids, questions.validation.token_ids]
    right = [answer_accuracy(curve.model, rows) for rows in asked]
    assert other[1] in (right[0], sum(right) / 2)  # the first 32 rows, or all 64
    again = revive(any_model, questions, steps=60, threshold=0.95, **SETTINGS)
    assert again.points == curve.points


def test_it_gives_up_after_the_last_step_and_needs_none_for_what_is_there(any_model: PreTrainedModel) -> None:
    questions = constant_answers()
    curve = revive(any_model, questions, steps=2, threshold=0.95, **{**SETTINGS, "lr": 1e-6})
    assert (curve.steps, list(curve.points)) == (None, [0, 1, 2])
    assert revive(any_model, questions, steps=2, threshold=0.0, **SETTINGS).steps == 0


def test_evaluations_are_twelve_a_decade_and_end_with_the_last() -> None:
    assert evaluated_steps(11) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    assert evaluated_steps(0) == [0]
    assert evaluated_steps(160)[-3:] == [121, 147, 160]
    assert len([step for step in evaluated_steps(1000) if 100 <= step < 1000]) == 12


def test_what_a_loss_says_of_a_model_in_half_precision_is_not_lost_between_its_blocks() -> None:
    """The same questions, whose loss is divided by 65536: Adam makes the same first steps of it, in float32."""
    questions = constant_answers()
    small = dataclasses.replace(questions, loss=lambda model, rows: questions.loss(model, rows) / 65536)
    changes = {}
    for dtype in (torch.float32, torch.float16):
        model = make_gpt2(40).to(dtype)
        with taught(model, small, seed=0, steps=2, lr=1e-4, batch_size=16, in_place=True) as trained:
            changes[dtype] = change_of(trained)
    for name, (left, right) in changes[torch.float32].factors.items():
        half = changes[torch.float16].factors[name]
        change, other = left @ right, half[0] @ half[1]
        assert torch.nn.functional.cosine_similarity(change.flatten(), other.flatten(), dim=0) > 0.9, name


RATE = 1e-3


def scripted(accuracy: Callable[[int], float]) -> Behavior:
    """Questions that are answered as well as a curve of steps says, by a model in which one number counts the steps.

    Under a loss that is this number AdamW takes the rate from it at every step.
    """
    numbers = torch.arange(1200)
    rows = numbers[:, None].expand(-1, 4).contiguous()
    parts = (AnswerRows.one_token(part) for part in (rows[:100], rows[100:600], rows[600:]))
    train, validation, test = parts

    def steps(model: PreTrainedModel) -> int:
        return round(-model.transformer.ln_f.bias[0].item() / RATE)

    def score(model: PreTrainedModel, rows: AnswerRows) -> Tensor:
        percent = round(100 * accuracy(steps(model)))
        return rows.token_ids[:, 0] * 37 % 100 < percent  # of every hundred rows in a row so many

    return Behavior(
        name="scripted", train=train, validation=validation, tests={"test": test}, score=score,
        loss=lambda model, rows: model.transformer.ln_f.bias[0],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("curve", "steps", "found"),
    [
        (lambda step: 0.2 if step < 15 else 1.0, 40, 15),
        (lambda step: 0.2 if step < 16 else 1.0, 40, 18),  # the next step of the grid
        (lambda step: 0.9 if step < 38 else 0.97, 40, 38),
        (lambda step: 0.2 if step < 38 else 1.0, 38, 38),  # confirmed after the last step
        (lambda step: 0.2 if step < 39 else 1.0, 38, None),
        (lambda step: 1.0, 40, 0),
        (lambda step: 1.0 if step in (5, 12) else 0.94, 40, None),  # there once, and once again
        (lambda step: 0.94, 40, None),  # near, and never there
        (lambda step: 0.94 + 0.06 * (step == 38), 38, None),
    ],
)
def test_a_known_crossing_is_found_and_a_curve_without_one_is_never_called_back(
    curve: Callable[[int], float], steps: int, found: int | None
) -> None:
    settings = {"seed": 0, "lr": RATE, "batch_size": 4, "eval_rows": 64, "threshold": 0.95}
    curved = revive(make_gpt2(40), scripted(curve), steps=steps, **settings)
    assert curved.steps == found
    assert curved.last == (46 if curve(38) >= 0.95 > curve(32) and steps == 38 else curved.last)
    assert all(abs(value - curve(step)) < 0.03 for step, value in curved.points.items())


def test_rows_are_many_near_the_threshold_alone_and_none_is_asked_twice() -> None:
    asked: list[int] = []

    def counted(percent: int) -> tuple[float, int]:
        questions = scripted(lambda step: percent / 100)

        def score(model: PreTrainedModel, rows: AnswerRows) -> Tensor:
            asked.extend(rows.token_ids[:, 0].tolist())
            return questions.score(model, rows)

        asked.clear()
        return accuracy_near(make_gpt2(40), dataclasses.replace(questions, score=score), 0.95, 64), len(asked)

    assert counted(50)[1] == 64
    share, number = counted(94)
    assert number == 1024 == len(set(asked))
    assert set(asked) == {*range(600, 1200), *range(100, 524)}  # test rows, then those that choose
    assert share == sum(each * 37 % 100 < 94 for each in asked) / 1024


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_an_adapter_a_model_comes_back_in_its_place_and_is_left_as_it_was(
    any_model: PreTrainedModel, dtype: torch.dtype
) -> None:
    questions, model = constant_answers(), copy.deepcopy(any_model).to(dtype).eval()
    before = copy.deepcopy(model.state_dict())
    alone = answer_accuracy(model, questions.test.token_ids)
    settings = {**SETTINGS, "threshold": 0.95, "in_place": True}
    curve = revive(model, questions, steps=60, **settings)
    assert curve.steps is not None
    assert 0 < curve.steps < 60
    assert isinstance(curve.end, LowRankChange)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert answer_accuracy(model, questions.test.token_ids) == alone < 0.5
    assert answer_accuracy(curve.end.added_to(model), questions.test.token_ids) > 0.9
    # a race that ends before either model's last step leaves both as they were
    other = copy.deepcopy(model)
    first, second = race((model, slow(other)), questions, steps=60, beyond=2, **settings)
    assert (first.steps, second.steps) == (curve.steps, None)
    for each in (model, other):
        assert each.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in each.state_dict().items())


def test_a_base_that_is_taught_nothing_by_an_adapter_answers_as_it_did() -> None:
    questions = constant_answers()
    model = make_gpt2(40)
    before = copy.deepcopy(model.state_dict())
    told = given_answers(model, questions.test)
    for in_place in (False, True):
        found = self_distil(model, questions, seed=0, steps=4, lr=1e-4, batch_size=16, in_place=in_place)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not all(torch.equal(value, before[name]) for name, value in found.state_dict().items())
        assert float((given_answers(found, questions.test) == told).float().mean()) > 0.9


def test_a_model_in_16_bit_is_trained_in_32_and_comes_back_as_it_is_kept() -> None:
    questions = constant_answers()
    model = make_gpt2(40).bfloat16().eval()
    curve = revive(model, questions, steps=60, threshold=0.95, **SETTINGS)
    assert {each.dtype for each in curve.model.parameters()} == {torch.float32}
    assert {each.dtype for each in kept_as(curve.model, torch.bfloat16).parameters()} == {torch.bfloat16}
    found = self_distil(model, questions, seed=0, steps=2, lr=1e-4, batch_size=16)
    assert {each.dtype for each in found.parameters()} == {torch.bfloat16}
