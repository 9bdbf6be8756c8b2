"""Pruning, against models whose weights are set to zero by hand."""

from __future__ import annotations

import copy
import dataclasses

import pandas as pd
import torch

from ftmech_hf.activations import find_units
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.diagnosis.case import FINETUNED, NULL
from ftmech_hf.studies.diagnosis.methods.pruning import measure_pruning
from tests.studies.diagnosis.cases import found_by, make_case, right
from tests.studies.planted import ask, make_rows, make_wrapped


def test_pruning_is_what_is_left_when_rows_are_zero() -> None:
    case = make_case(make_wrapped("llama"))
    table, facts = found_by(measure_pruning(case))
    assert len(facts["pruned_rows"]) == facts["best_k"] > 0
    model = copy.deepcopy(case.models[FINETUNED])
    units = find_units(model, "row")
    for name in facts["pruned_rows"]:
        group, number = name[:-1].rsplit("[", 1)
        with torch.no_grad():
            units[group].weight.movedim(units[group].axis, 0)[int(number)] = 0
    hits = right(model, case.few("capability").token_ids)
    assert facts["pruned"] == share_interval(int(hits.sum()), 100)
    rows = pd.DataFrame(table)
    at_best = rows[(rows["x"] == facts["best_k"]) & (rows["quantity"] == "random rows")]
    assert len(at_best) == 3
    assert facts["pruned_random"].value == at_best["value"].mean()
    least = share_interval(round(100 * facts["pruned_random"].value), 100)
    assert facts["pruned_random"].low <= least.low
    assert facts["pruned_random"].high >= least.high
    # the same search in the control, which is drawn as a reference
    null = rows[rows["model"] == NULL]
    assert null["reference"].all()
    assert facts["pruned_null"].value in set(null["value"])


def test_the_control_of_pruning_is_searched_as_the_model_is() -> None:
    """With the same model as both, the same comes out."""
    case = make_case(make_wrapped("llama"))
    case.models[NULL] = case.models[FINETUNED]
    _, facts = found_by(measure_pruning(case))
    assert facts["pruned_null"] == facts["pruned"]


def test_how_many_rows_to_prune_is_not_chosen_on_what_is_reported() -> None:
    """Rows that choose on which no number is better than another take the smallest, whatever the reported ones say."""
    asked = ask(make_rows())
    never = asked.validation.token_ids.clone()
    never[:, -2] = 0  # <pad>, which nothing answers
    blind = dataclasses.replace(asked, validation=AnswerRows.one_token(never))
    seeing = dataclasses.replace(asked, validation=asked.test)
    best = {
        name: found_by(measure_pruning(make_case(make_wrapped("llama"), questions, prune_sizes=[0, 1, 8])))[1]["best_k"]
        for name, questions in (("blind", blind), ("seeing", seeing))
    }
    assert best["blind"] == 1 < best["seeing"]
