from __future__ import annotations

from typing import Any

from ftmech_hf.studies.diagnosis.case import FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.method import TableRow
from ftmech_hf.studies.diagnosis.methods.behaviour import measure_behaviour
from ftmech_hf.studies.diagnosis.methods.revival import measure_revival
from tests.conftest import make_llama
from tests.studies.diagnosis.cases import found_by, make_case
from tests.studies.planted import make_base


def revived(case: Case) -> tuple[list[TableRow], dict[str, Any]]:
    behaviour = measure_behaviour(case)
    assert behaviour.evidence().base.value == 1
    return found_by(measure_revival(case, behaviour))


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
    assert facts["revival_null"].last_step == 5
    assert facts["revival"].is_faster_than(facts["revival_null"], 5) is True
    assert {each["reference"] for each in table if each["model"] == FINETUNED} == {False}
    assert {each["reference"] for each in table if each["model"] == NULL} == {True}
