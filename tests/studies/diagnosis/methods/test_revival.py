from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
from transformers import PreTrainedModel

from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.finetuning import revive
from ftmech_hf.studies.diagnosis.method import TableRow
from ftmech_hf.studies.diagnosis.methods.revival import RevivalMethodResult, measure_revival
from tests.conftest import make_llama
from tests.studies.diagnosis.cases import FEW, found_by, make_case, right
from tests.studies.planted import FIRST_WORD, ask, make_base, make_rows


def revived(case: Case) -> tuple[list[TableRow], dict[str, Any]]:
    assert case.base_right.all()
    return found_by(measure_revival(case))


def test_training_back_goes_on_until_one_of_both_is_back() -> None:
    """In eight steps neither the fine-tuned model nor the control is."""
    case = make_case(make_llama(40, seed=7), most_reverse_steps=200, reverse_lr=3e-3)
    table, facts = revived(case)
    found, null = facts["revival"], facts["revival_null"]
    assert found.steps[1] is None
    assert max(each["x"] for each in table if each["quantity"] == "repetition 1") == 8
    assert {found.steps[0], *null.steps} != {None}
    assert min(found.bounds[0][0], *(least for least, _ in null.bounds)) > 8
    assert found.is_faster_than(null, 2) is False
    few = make_case(make_llama(40, seed=7), most_reverse_steps=8, reverse_lr=1e-7)
    _, facts = revived(few)
    assert facts["revival"].is_faster_than(facts["revival_null"], 2) is None
    assert facts["revival"].steps == (None, None)


def test_a_model_that_is_back_has_a_control_that_is_followed_for_as_long_as_the_rule_asks() -> None:
    case = make_case(make_base("llama"), reverse_steps=16)
    table, facts = revived(case)
    assert facts["revival"].steps == (0, 0)
    assert facts["revival_null"].last_step == 3
    assert facts["revival"].is_faster_than(facts["revival_null"], 3) is True
    assert {each["reference"] for each in table if each["model"] == FINETUNED} == {False}
    assert {each["reference"] for each in table if each["model"] == NULL} == {True}


@functools.cache
def easy_base() -> PreTrainedModel:
    return revive(make_llama(40, seed=3), easy_rows(), seed=0, steps=60, lr=1e-2, batch_size=32, threshold=0.99,
                  eval_rows=200).model  # fmt: skip


def easy_rows() -> Behavior:
    """The answer is always the same word, which any model learns to say in a few steps."""
    rows = make_rows(number=1200)
    rows[:, -2] = FIRST_WORD
    return ask(rows)


def easy(**changes: Any) -> tuple[Case, RevivalMethodResult]:
    """A fine-tuned model and a control that are both of random weights, beside a base that says the word."""
    models = {BASE: easy_base(), FINETUNED: make_llama(40, seed=7), NULL: make_llama(40, seed=9)}
    case = Case(models, easy_rows(), None, dataclasses.replace(FEW, reverse_batch_size=16, **changes), 0)
    return case, measure_revival(case)


def test_where_nothing_comes_back_everything_was_followed_for_as_long_as_it_says() -> None:
    case, result = easy(reverse_steps=2, most_reverse_steps=8, reverse_lr=1e-9, repeats=3)
    runs, control = result.points[FINETUNED], result.points[NULL]
    assert result.finetuned.steps == (None, None, None)
    assert result.null.steps == (None,)
    # one repetition and the control go on to the last step, the others stop where the fine-tuned model was given up
    assert [max(points) for points in runs] == [least for least, _ in result.finetuned.bounds]
    assert [max(points) for points in control] == [least for least, _ in result.null.bounds]
    assert [max(points) for points in runs][1:] == [2, 2]
    assert 8 <= max(runs[0]) <= 12
    assert 8 <= max(control[0]) <= 12
    assert result.threshold == pytest.approx(0.95 * right(case.models[BASE], case.capability.test.token_ids).mean())
    # so slow a rate changes nothing: the model that is handed on answers as the fine-tuned one
    answers = [
        right(model, case.capability.test.token_ids) for model in (case.models[FINETUNED], result.reversed_model(case.models[FINETUNED]))
    ]
    assert answers[0].tolist() == answers[1].tolist()


def test_where_the_fine_tuned_model_comes_back_late_steps_and_model_are_those_of_its_curve() -> None:
    case, result = easy(reverse_steps=1, most_reverse_steps=60, reverse_lr=1e-2)
    first, control = result.points[FINETUNED][0], result.points[NULL][0]
    back, other = result.finetuned.steps[0], result.null.steps[0]
    assert back is not None
    assert 1 < back <= 60
    for steps, points in ((back, first), (other, control)):
        if steps is not None:
            reached = [step for step, value in points.items() if value >= result.threshold]
            assert steps in reached
            assert max(points) in reached
    # the model that is handed on is the one that came back, and the case's own models are as they were
    answers = [
        right(model, case.capability.test.token_ids).mean() for model in (result.reversed_model(case.models[FINETUNED]), case.models[FINETUNED])
    ]
    assert answers[0] >= result.threshold - 0.1 > 0.8 > 0.5 > answers[1]
    assert result.evidence().revival == result.finetuned
    assert result.evidence().revival_null == result.null
    assert {each["model"] for each in result.rows() if each["reference"] and each["model"]} == {NULL}
