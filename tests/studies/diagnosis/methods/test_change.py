"""Parts of a weight change that are kept and taken back, against models that are put together by hand."""

from __future__ import annotations

import copy
import dataclasses

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.analysis.restoring import BLOCKS, EVERYTHING, Part, find_places
from ftmech_hf.models.vocabulary import CommonTokens
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, OTHER_SEED, Case
from ftmech_hf.studies.diagnosis.methods.change import measure_change
from tests.studies.diagnosis.cases import FEW, found_by, make_case, right
from tests.studies.planted import ask, make_base, make_rows, make_wrapped


def planted() -> PreTrainedModel:
    """A wrapper of one direction in the last MLP, with a little noise in everything else."""
    model = copy.deepcopy(make_base("llama"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in model.parameters():
            each += 1e-4 * each.std().nan_to_num() * torch.randn(each.shape, generator=generator)
        down = model.model.layers[-1].mlp.down_proj
        read: list[torch.Tensor] = []
        handle = down.register_forward_pre_hook(lambda module, given: read.append(given[0][:, -1]))
        model(make_rows()[:200, :-2])
        handle.remove()
        inputs = read[0].mean(0)
        away = torch.randn(down.weight.shape[0], generator=generator)
        down.weight += 30.0 * torch.outer(away, inputs) / inputs.square().sum()
    return model


def test_the_smallest_part_is_the_planted_one_and_random_edits_restore_nothing() -> None:
    case = make_case(planted())
    layer = case.num_layers - 1
    before = copy.deepcopy(case.models[FINETUNED].state_dict())
    result = measure_change(case)
    assert result.search is not None
    assert result.search.smallest is not None
    assert result.search.smallest.part == Part(f"mlp of block {layer}", 1)
    table, facts = found_by(result)
    found = facts["smallest_edit"]
    assert (found["place"], found["directions"]) == (f"mlp of block {layer}", 1)
    assert found["restored"] > 0.9
    assert found["restored_by_chance"] < 0.3
    after = case.models[FINETUNED].state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items()), "put back to the bit"
    rows = pd.DataFrame(table)
    # the ends of the scale are the two models, and the base with all of the change in its blocks nearly the second
    scaled = rows[rows["quantity"] == "scaled"].set_index("x")["value"]
    tests = case.few("capability").token_ids
    for scale, name in ((0.0, "base"), (1.0, FINETUNED)):
        assert scaled[scale] == pytest.approx(right(case.models[name], tests).mean())
    kept = rows[rows["quantity"] == "kept alone"].set_index("x")["value"]
    assert kept[1.0] == pytest.approx(scaled[1.0], abs=0.1), "one direction is the wrapper"
    taken = rows[rows["quantity"] == "taken back"].set_index("x")["value"]
    assert taken[1.0] > 0.9


def test_a_trained_wrapper_comes_off_and_another_seed_can_be_given_the_change() -> None:
    questions = ask(make_rows(), "first")
    other = make_base("llama")
    models = make_case(make_wrapped("llama")).models
    same = torch.arange(models[BASE].config.vocab_size)  # as of every model that was read from a folder
    case = Case(
        models, questions, ask(make_rows(shift=1, seed=2), "next"), dataclasses.replace(FEW), 0, other_seed=other,
        common=dict.fromkeys((FINETUNED, OTHER_SEED), CommonTokens(same, same)),
    )  # fmt: skip
    result = measure_change(case)
    table, facts = found_by(result)
    found = facts["smallest_edit"]
    assert found["restored"] >= 0.8
    assert found["restored_by_chance"] < 0.5 * found["restored"]
    assert found["size"] < 1.0
    rows = pd.DataFrame(table)
    moved = rows[rows["quantity"] == "another seed with the change"].set_index("questions")["value"]
    # the other seed is the base itself here, so that with the change it is the fine-tuned model
    assert moved["capability"] == pytest.approx(result.ends[1].mean())
    assert OTHER_SEED in case.null_models


def test_of_a_copy_nothing_is_taken_back() -> None:
    result = measure_change(make_case(copy.deepcopy(make_base("llama"))))
    assert result.search is None
    assert result.summary() == {"smallest_edit": None}
    assert {each["quantity"] for each in result.rows()} == {"scaled"}


def test_places_hold_every_parameter_once_at_each_depth() -> None:
    model = make_base("llama")
    places, every = find_places(model), {name for name, _ in model.named_parameters()}
    assert set(places[EVERYTHING]) == every
    blocks = [places[f"block {layer}"] for layer in range(len(model.model.layers))]
    assert sorted(name for names in blocks for name in names) == sorted(places[BLOCKS])
    parts = [names for place, names in places.items() if " of block " in place]
    assert sorted(name for names in parts for name in names) == sorted(places[BLOCKS])
    assert {"mlp of block 0", "self_attn of block 0", "outside the blocks"} <= places.keys()
