"""What is measured on a pair of models, against models that are taken apart by hand."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.activations import find_units
from ftmech_hf.jobs.prompts import Questions
from ftmech_hf.statistics.intervals import paired_difference, share_interval
from ftmech_hf.studies.diagnosis import evidence, whereabouts
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, ExaminationConfig, Examined, never_trained
from tests.conftest import make_gpt2, make_llama, make_neox
from tests.studies.planted import ask, make_base, make_never, make_rows, make_wrapped

FEW = ExaminationConfig(
    rows=200, fit_rows=500, patch_rows=100, null_steps=0, prune_sizes=[0, 1, 2, 4], random_masks=3, reverse_lr=1e-3,
    reverse_steps=8, most_reverse_steps=64, repeats=2,
)  # fmt: skip


def make_case(finetuned: PreTrainedModel, questions: Questions | None = None, **changes: Any) -> Examined:
    models = {BASE: make_base("llama"), FINETUNED: finetuned, NULL: make_never("llama")}
    return Examined(models, questions or ask(make_rows()), None, dataclasses.replace(FEW, **changes), 0)


@torch.no_grad()
def right(model: PreTrainedModel, rows: torch.Tensor) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (model(rows[:, :-2]).logits[:, -1].argmax(-1) == rows[:, -2]).numpy()
    return found


def test_behaviour_is_what_each_model_answers() -> None:
    case = make_case(make_wrapped("llama"))
    table, facts = evidence.behaviour(case)
    hits = {name: right(model, case.capability.test) for name, model in case.models.items()}
    for key, name in (("base", BASE), ("finetuned", FINETUNED), ("null", NULL)):
        assert facts[key] == share_interval(int(hits[name].sum()), 200)
    assert facts["drop"] == paired_difference(hits[BASE], hits[FINETUNED])
    assert facts["drop"].value > 0.8
    most = case.capability.train[:, -2].bincount().argmax()
    assert facts["chance"] == pytest.approx(float((case.capability.test[:, -2] == most).double().mean()))
    assert (facts["control"], facts["same_tokens"]) == (True, True)
    assert {each["reference"] for each in table if each["model"] in (BASE, FINETUNED)} == {False}


def test_random_weights_are_no_control_however_they_are_called() -> None:
    for make in (make_gpt2, make_llama, make_neox):
        assert never_trained(make(40))
    assert not never_trained(make_never("llama"))
    assert not never_trained(make_never("gpt2"))
    without = torch.nn.Linear(3, 3, bias=False)
    assert not never_trained(without)  # type: ignore[arg-type]


def test_pruning_is_what_is_left_when_rows_are_zero() -> None:
    case = make_case(make_wrapped("llama"))
    table, facts = evidence.pruning(case)
    assert len(facts["pruned_rows"]) == facts["best_k"] > 0
    model = copy.deepcopy(case.models[FINETUNED])
    units = find_units(model, "row")
    for name in facts["pruned_rows"]:
        group, number = name[:-1].rsplit("[", 1)
        with torch.no_grad():
            units[group].weight.movedim(units[group].axis, 0)[int(number)] = 0
    hits = right(model, case.few("capability"))
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
    _, facts = evidence.pruning(case)
    assert facts["pruned_null"] == facts["pruned"]


def test_how_many_rows_to_prune_is_not_chosen_on_what_is_reported() -> None:
    """Rows that choose on which no number is better than another take the smallest, whatever the reported ones say."""
    asked = ask(make_rows())
    never = asked.validation.clone()
    never[:, -2] = 0  # <pad>, which nothing answers
    blind = dataclasses.replace(asked, validation=never)
    seeing = dataclasses.replace(asked, validation=asked.test)
    best = {
        name: evidence.pruning(make_case(make_wrapped("llama"), questions, prune_sizes=[0, 1, 8]))[1]["best_k"]
        for name, questions in (("blind", blind), ("seeing", seeing))
    }
    assert best["blind"] == 1 < best["seeing"]


def test_training_back_goes_on_until_one_of_both_is_back() -> None:
    """In eight steps neither the fine-tuned model nor the control is."""
    case = make_case(make_llama(40, seed=7), most_reverse_steps=200, reverse_lr=3e-3)
    table, facts = evidence.revival(case, share_interval(200, 200))
    found, null = facts["revival"], facts["revival_null"]
    assert found.steps[1] is None
    assert max(each["x"] for each in table if each["quantity"] == "repetition 1") == 8
    assert {found.steps[0], *null.steps} != {None}
    assert min(found.bounds[0][0], *(least for least, _ in null.bounds)) > 8
    assert found.is_faster_than(null, 2) is False
    few = make_case(make_llama(40, seed=7), most_reverse_steps=8, reverse_lr=1e-7)
    _, facts = evidence.revival(few, share_interval(200, 200))
    assert facts["revival"].is_faster_than(facts["revival_null"], 2) is None
    assert facts["revival"].steps == (None, None)


def test_a_model_that_is_back_has_a_control_that_is_followed_for_as_long_as_the_rule_asks() -> None:
    case = make_case(make_base("llama"), reverse_steps=16)
    table, facts = evidence.revival(case, share_interval(200, 200))
    assert facts["revival"].steps == (0, 0)
    assert facts["revival_null"].last_step == 5
    assert facts["revival"].is_faster_than(facts["revival_null"], 5) is True
    assert {each["reference"] for each in table if each["model"] == FINETUNED} == {False}
    assert {each["reference"] for each in table if each["model"] == NULL} == {True}


def test_a_change_outside_the_blocks_is_seen() -> None:
    """Embeddings, unembedding and the last norm: each changed alone, by a share that is known."""
    for part in ("embeddings", "unembedding", "model.norm"):
        finetuned = copy.deepcopy(make_base("llama"))
        modules = {"embeddings": finetuned.get_input_embeddings(), "unembedding": finetuned.get_output_embeddings(),
                   "model.norm": finetuned.model.norm}  # fmt: skip
        with torch.no_grad():
            modules[part].weight.mul_(1.25)
        table, facts = whereabouts.weights(make_case(finetuned))
        expected = {name: pytest.approx(0.25 if name == part else 0, abs=1e-6) for name in modules}
        assert facts["weights"]["outside_blocks"] == expected
        assert facts["weights"]["changed"] == 0
        rows = [each for each in table if each["site"] == part and not each["reference"]]
        assert [each["value"] for each in rows] == [pytest.approx(0.25, abs=1e-6)]
    tied = make_gpt2(40)
    tied.lm_head.weight = tied.transformer.wte.weight
    assert set(whereabouts.outside_blocks(tied, "transformer.h").values()) == {
        "embeddings", "transformer.wpe", "transformer.ln_f", "transformer.ln_f.bias",
    }  # fmt: skip
