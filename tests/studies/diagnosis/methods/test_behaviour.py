"""What models answer, against models that are asked by hand."""

from __future__ import annotations

import pytest

from ftmech_hf.statistics.intervals import paired_difference, share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL
from ftmech_hf.studies.diagnosis.methods.behaviour import measure_behaviour
from tests.studies.diagnosis.cases import found_by, make_case, right
from tests.studies.planted import make_wrapped


def test_behaviour_is_what_each_model_answers() -> None:
    case = make_case(make_wrapped("llama"))
    table, facts = found_by(measure_behaviour(case))
    hits = {name: right(model, case.capability.test.token_ids) for name, model in case.models.items()}
    for key, name in (("base", BASE), ("finetuned", FINETUNED), ("null", NULL)):
        assert facts[key] == share_interval(int(hits[name].sum()), 200)
    assert facts["drop"] == paired_difference(hits[BASE], hits[FINETUNED])
    assert facts["drop"].value > 0.8
    most = case.capability.train.token_ids[:, -2].bincount().argmax()
    assert facts["chance"] == pytest.approx(float((case.capability.test.token_ids[:, -2] == most).double().mean()))
    assert (facts["control"], facts["same_tokens"]) == (True, True)
    assert {each["reference"] for each in table if each["model"] in (BASE, FINETUNED)} == {False}
