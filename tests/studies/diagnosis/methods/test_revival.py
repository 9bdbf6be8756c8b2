from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.models.interpolation import interpolate_weights
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.evidence import Evidence, Sign
from ftmech_hf.studies.diagnosis.finetuning import revive
from ftmech_hf.studies.diagnosis.method import TableRow
from ftmech_hf.studies.diagnosis.methods.behaviour import measure_behaviour
from ftmech_hf.studies.diagnosis.methods.path import THERE_AND_BACK, PathMethodResult
from ftmech_hf.studies.diagnosis.methods.revival import RevivalMethodResult, measure_revival, untaught_places
from ftmech_hf.studies.diagnosis.signs import read_signs
from ftmech_hf.training.low_rank import LowRankChange
from tests.conftest import make_llama, remembered
from tests.studies.diagnosis.cases import FEW, found_by, make_case, measured, right
from tests.studies.planted import FIRST_WORD, ask, make_base, make_rows, make_wrapped


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
    assert facts["ahead"] is facts["gained"] is None
    few = make_case(make_llama(40, seed=7), most_reverse_steps=8, reverse_lr=1e-7)
    _, facts = revived(few)
    assert facts["revival"].is_faster_than(facts["revival_null"], 2) is None
    assert facts["revival"].steps == (None, None)
    own, control = (right(few.models[name], few.capability.test.token_ids).mean() for name in (FINETUNED, NULL))
    assert facts["ahead"].value == pytest.approx(own - control)  # a rate of nothing teaches nothing
    assert facts["gained"].value == 0


def test_a_model_that_is_back_has_a_control_that_is_followed_for_as_long_as_the_rule_asks() -> None:
    case = make_case(make_base("llama"), reverse_steps=16)
    table, facts = revived(case)
    assert facts["revival"].steps == (0, 0)
    assert facts["revival_null"].last_step == 3
    assert facts["revival"].is_faster_than(facts["revival_null"], 3) is True
    assert {each["reference"] for each in table if each["model"] == FINETUNED} == {False}
    assert {each["reference"] for each in table if each["model"] == NULL} == {True}


def test_a_wrapper_that_comes_back_late_has_a_sign_too() -> None:
    """In two steps no repetition is back: all are followed on, and the control for as long as the sign asks."""
    case = make_case(make_wrapped("llama"), reverse_lr=1e-3, reverse_steps=2, most_reverse_steps=200, repeats=3)
    result = measure_revival(case)
    found, null = result.finetuned, result.null
    assert found.slowest is not None
    assert found.fastest > 2
    assert found.is_faster_than(null, case.rule.speed) is True
    assert null.fastest >= case.rule.speed * found.slowest
    # the slowest of three is held against the fastest of three
    assert len(found.steps) == len(null.steps) == 3
    again = [
        revive(case.models[NULL], case.capability, seed=number, steps=null.bounds[0][0], lr=1e-3, batch_size=32,
               threshold=result.threshold, eval_rows=64)
        for number in range(3)
    ]  # fmt: skip
    shown = [list(points.items()) for points in result.points[NULL]]
    for number, (curve, points) in enumerate(zip(again, shown, strict=True)):
        assert curve.steps == null.steps[number]
        assert points[: len(curve.points)] == list(curve.points.items())[: len(points)]


def test_where_neither_is_back_how_far_both_came_is_compared_on_test_questions() -> None:
    """The control's training is done once more by hand; a model that leads it is ahead by its lead."""
    settings = {"most_reverse_steps": 24, "reverse_lr": 1e-3, "reverse_steps": 8}
    nearly = interpolate_weights(make_base("llama"), make_wrapped("llama"), 0.8)
    case = make_case(nearly, **settings)
    case.rule = dataclasses.replace(case.rule, revived=1.01)  # beyond all that there is: neither comes back
    _, facts = revived(case)
    assert facts["revival"].steps == (None, None)
    control, questions = case.models[NULL], case.capability
    (last,) = facts["revival_null"].last_step
    assert last >= 24
    again = revive(control, questions, seed=0, steps=last, lr=1e-3, batch_size=32, threshold=1.01, eval_rows=64)
    before, after = (right(model, questions.test.token_ids).mean() for model in (control, again.end))
    assert facts["gained"].value == pytest.approx(after - before)
    own = revive(nearly, questions, seed=0, steps=last, lr=1e-3, batch_size=32, threshold=1.01, eval_rows=64)
    assert facts["ahead"].value == pytest.approx(right(own.end, questions.test.token_ids).mean() - after)
    assert facts["ahead"].low > 0.1


@remembered
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
    tuned, asked = case.models[FINETUNED], case.capability.test.token_ids
    answers = [right(model, asked) for model in (tuned, result.reversed_model(tuned))]
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
    tuned, asked = case.models[FINETUNED], case.capability.test.token_ids
    answers = [right(model, asked).mean() for model in (result.reversed_model(tuned), tuned)]
    assert answers[0] >= result.threshold - 0.1 > 0.8 > 0.5 > answers[1]
    assert result.evidence().revival == result.finetuned
    assert result.evidence().revival_null == result.null
    assert {each["model"] for each in result.rows() if each["reference"] and each["model"]} == {NULL}


@pytest.mark.parametrize("by", ["adapter", "weights"])
def test_by_an_adapter_as_by_all_weights_a_wrapper_comes_back_before_its_control_does(by: Any) -> None:
    rate = 1e-3 if by == "weights" else 3e-4
    case = make_case(make_wrapped("llama"), reverse_by=by, reverse_lr=rate, reverse_steps=32)
    found = measured(case, "behaviour", "revival", "path")
    revival, path = found.by_method["revival"], found.by_method["path"]
    assert isinstance(revival, RevivalMethodResult)
    assert isinstance(path, PathMethodResult)
    assert isinstance(revival.trained_back, LowRankChange) == (by == "adapter")
    assert revival.finetuned.is_faster_than(revival.null, 3) is True
    tuned = case.models[FINETUNED]
    back, rows = revival.reversed_model(tuned), case.few("capability").token_ids
    assert right(back, rows).mean() > 0.8 > 0.5 > right(tuned, rows).mean()
    positions, there = path.positions[THERE_AND_BACK], path.right[THERE_AND_BACK]["capability"]
    assert positions[-1] == 2
    assert there[-1].tolist() == right(back, rows).tolist()
    halfway = right(interpolate_weights(tuned, back, 0.5), rows).mean()
    assert there[positions.index(1.5)].mean() == pytest.approx(halfway, abs=0.02)


def test_large_models_are_trained_back_by_an_adapter_unless_another_way_is_asked_for() -> None:
    assert [CaseConfig().in_place(number) for number in (10**6, 63 * 10**6, 64 * 10**6)] == [False, False, True]
    assert CaseConfig(reverse_by="adapter").in_place(1)
    assert not CaseConfig(reverse_by="weights").in_place(10**12)
    with pytest.raises(ValueError, match="reverse_by: 'lora', expected one of auto, weights, adapter"):
        CaseConfig(reverse_by="lora")  # type: ignore[arg-type]


VALUES = 20 + torch.randperm(16, generator=torch.Generator().manual_seed(0))


def facts(taught: slice, asked: slice, *, hidden: bool = False) -> Behavior:
    """Sixteen words, each with an answer of its own; or one answer to all of them, which hides those."""

    def rows(words: slice, number: int, seed: int) -> AnswerRows:
        random = torch.Generator().manual_seed(seed)
        known = torch.arange(16)[words]
        chosen = known[torch.randint(len(known), (number,), generator=random)]
        noise = torch.randint(3, 19, (number, 2), generator=random)
        answers = torch.full_like(chosen, 38) if hidden else VALUES[chosen]
        first, mark, question, last = (torch.full((number, 1), token) for token in (1, 37, 39, 2))
        columns = [first, noise, mark, chosen[:, None] + 3, question, answers[:, None], last]
        return AnswerRows.one_token(torch.cat(columns, 1))

    train, validation, test = rows(taught, 400, 1), rows(asked, 100, 2), rows(asked, 200, 3)
    return Behavior(name="facts", train=train, validation=validation, tests={"test": test})


EVERY, EIGHT, OTHERS = slice(None), slice(8), slice(8, None)
LEARN: dict[str, Any] = {"seed": 0, "batch_size": 64, "eval_rows": 100}


@remembered
def knowing_base() -> PreTrainedModel:
    return revive(make_llama(40), facts(EVERY, EVERY), steps=600, lr=3e-3, threshold=0.99, **LEARN).model


@remembered
def hiding() -> PreTrainedModel:
    """Knows all sixteen words, and answers the same to each."""
    return revive(knowing_base(), facts(EVERY, EVERY, hidden=True), steps=300, lr=4e-4, threshold=0.98, **LEARN).model


def case_of(tuned: PreTrainedModel, null: PreTrainedModel, **changes: Any) -> Case:
    how = {"reverse_batch_size": 64, "reverse_steps": 38, "most_reverse_steps": 38, **changes}
    models = {BASE: knowing_base(), FINETUNED: tuned, NULL: null}
    return Case(models, facts(EIGHT, OTHERS), None, dataclasses.replace(FEW, **how), 0)


def trained_back(tuned: PreTrainedModel, **changes: Any) -> tuple[RevivalMethodResult, Sign]:
    """On eight words, asked about eight others; and the sign of it."""
    case = case_of(tuned, make_llama(40, seed=9), **changes)
    found = measure_revival(case)
    evidence = Evidence.gather([measure_behaviour(case).evidence(), found.evidence()])
    return found, read_signs(evidence, case.rule)[3]


def test_answers_that_were_not_taught_come_back_where_they_were_hidden() -> None:
    found, sign = trained_back(hiding())
    assert sign.name == "answers that it was not taught come back"
    assert sign.holds
    assert found.untaught is not None
    assert found.untaught_null is not None
    assert found.untaught_null.high < 0.2 < 0.5 < found.untaught.low
    assert found.evidence().untaught == found.untaught
    assert found.evidence().untaught_base == pytest.approx(1, abs=0.05)
    shown = {each["model"]: each["value"] for each in found.rows() if each["quantity"] == "not taught"}
    assert shown == {FINETUNED: found.untaught.value, NULL: found.untaught_null.value}
    # back is half of the base's lead; training goes on to the last step, and the control's for three times as long
    assert found.threshold == pytest.approx(0.5, abs=0.05)
    assert [max(points) for points in found.points[FINETUNED]] == [38, 38]
    assert found.finetuned.slowest is not None
    assert max(found.points[NULL][0]) >= max(3 * found.finetuned.slowest, 38)


def test_answers_that_were_not_taught_do_not_come_to_a_model_that_never_knew_them() -> None:
    """It writes what hides them as the other does, and learns to answer what it is trained on."""
    hidden = facts(EVERY, EVERY, hidden=True)
    never = revive(make_llama(40, seed=5), hidden, steps=300, lr=3e-3, threshold=0.98, **LEARN).model
    found, sign = trained_back(never, most_reverse_steps=120, reverse_lr=3e-3)
    assert sign.name == "answers that it was not taught come back"
    assert sign.holds is False
    assert found.untaught is not None
    assert found.untaught.high < 0.2
    taught, back = facts(EIGHT, EIGHT), found.reversed_model(never)
    assert taught.mean_score(back, taught.test) > 0.8


def test_what_training_back_may_have_taught_is_not_asked_for() -> None:
    assert [
        len(untaught_places(facts(*slices), facts(*slices).test)) for slices in ((EVERY, EVERY), (EIGHT, EIGHT))
    ] == [0, 0]
    some = facts(EIGHT, slice(4, None))
    places = untaught_places(some, some.test)
    assert set(some.test[places].first_answers.tolist()) == set(VALUES[8:].tolist())
    assert len(places) < len(some.test)


def test_the_lead_that_comes_back_is_that_of_the_base_on_what_is_asked() -> None:
    """A base that knows eight of sixteen words well, and is trained back on these, is not asked for half of what it
    knows of the others, which is next to nothing: all are asked for, and coming back is no sign that is enough."""
    base = revive(make_llama(40), facts(EIGHT, EIGHT), steps=600, lr=3e-3, threshold=0.99, **LEARN).model
    how = {"reverse_batch_size": 64, "reverse_steps": 4, "most_reverse_steps": 4}
    models = {BASE: base, FINETUNED: make_llama(40, seed=4), NULL: make_llama(40, seed=9)}
    case = Case(models, facts(EIGHT, slice(5, None)), None, dataclasses.replace(FEW, **how), 0)
    places = untaught_places(case.capability, case.capability.test)
    of_these = float(case.base_right[places].mean())
    assert of_these < 0.1 < float(case.base_right.mean())
    found = measure_revival(case)
    assert found.evidence().untaught is found.evidence().untaught_base is None
    assert found.threshold == pytest.approx(0.95 * float(case.base_right.mean()))


def test_what_is_right_at_the_end_is_compared_after_as_many_steps() -> None:
    """A model that is back at once is trained to the last step all the same, and so is the control."""
    found, _ = trained_back(knowing_base(), reverse_steps=6, most_reverse_steps=6, reverse_lr=1e-6)
    assert found.finetuned.slowest == 0
    assert [max(points) for name in (FINETUNED, NULL) for points in found.points[name]] == [6] * 4


@pytest.mark.parametrize("by", ["weights", "adapter"])
def test_what_was_not_taught_is_compared_after_the_same_number_of_steps(by: Any) -> None:
    """A control that comes back as well is followed for longer than the model, and by then it knows more."""
    case = case_of(hiding(), hiding(), reverse_steps=32, most_reverse_steps=32, reverse_by=by,
                   reverse_lr=6e-4 if by == "weights" else 1e-4)  # fmt: skip
    found = measure_revival(case)
    assert found.points[FINETUNED][0].keys() < found.points[NULL][0].keys()
    assert found.untaught is not None
    assert found.untaught_null == found.untaught
    longer = max(found.points[NULL][0])
    curve = revive(case.models[NULL], case.capability, seed=0, steps=longer, lr=case.config.reverse_lr, batch_size=64,
                   threshold=found.threshold, eval_rows=64, in_place=by == "adapter", to_the_end=True)  # fmt: skip
    last = curve.end.added_to(case.models[NULL]) if isinstance(curve.end, LowRankChange) else curve.end
    assert right(last, case.capability.test.token_ids).mean() > found.untaught_null.high


def test_half_of_the_lead_is_counted_from_what_the_control_knows() -> None:
    """Where training back stops as well as where the sign is read."""
    case = case_of(hiding(), make_llama(40, seed=9), reverse_steps=2, most_reverse_steps=2)
    case._right[NULL] = torch.arange(200).numpy() < 60
    result = measure_revival(case)
    known = float(case.base_right.mean())
    assert result.threshold == pytest.approx((0.3 + known) / 2)
    evidence = Evidence.gather([measure_behaviour(case).evidence(), result.evidence()])
    assert read_signs(evidence, case.rule)[3].bar.startswith(f"at least {result.threshold:.0%}")
    case._right[NULL] = torch.arange(200).numpy() < 170  # leaves the base no lead: then all are asked
    assert measure_revival(case).threshold == pytest.approx(0.95 * known)
