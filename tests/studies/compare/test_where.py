"""A change that is planted in one MLP is found there; the same change turned at random does nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.analysis.output_difference import compare_outputs
from ftmech_hf.studies.compare.finding import Finding
from ftmech_hf.studies.compare.report import answer_in_words
from ftmech_hf.studies.compare.texts import Windows
from ftmech_hf.studies.compare.where import DRAWS, PlaceEffect, beside_nulls, main_place, place_effects
from tests.conftest import make_gpt2

ROWS = torch.randint(3, 40, (16, 12), generator=torch.Generator().manual_seed(0))
WINDOWS = Windows(ROWS, torch.ones_like(ROWS).bool())


def planted(base: PreTrainedModel) -> PreTrainedModel:
    """The second MLP writes one direction whatever it reads; noise in the first attention says nothing."""
    model, generator = copy.deepcopy(base), torch.Generator().manual_seed(0)
    matrix, read = model.transformer.h[1].mlp.c_proj, list[torch.Tensor]()
    handle = matrix.register_forward_pre_hook(lambda module, given: read.append(given[0].flatten(0, 1)))
    with torch.no_grad():
        model(ROWS)
        handle.remove()
        inputs = read[0].mean(0)
        away = torch.randn(matrix.weight.shape[1], generator=generator)
        matrix.weight += 2.0 * torch.outer(inputs, away) / inputs.square().sum()
        noisy = model.transformer.h[0].attn.c_proj.weight
        noisy += 1e-3 * torch.randn(noisy.shape, generator=generator)
    return model


def test_the_place_of_a_planted_change_is_found_and_at_random_it_does_little() -> None:
    base = make_gpt2(40)
    model = planted(base)
    before = copy.deepcopy(base.state_dict())
    effects = place_effects(base, model, WINDOWS, tokens=40, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    names = {each.place: each for each in effects}
    assert set(names) == {"mlp of block 1", "attn of block 0", "block 0", "block 1", "all blocks"}
    found = main_place(effects)
    assert found is not None
    assert found.place == "mlp of block 1"
    whole = compare_outputs(base, {"": model}, *WINDOWS, tokens=40)[""].mean_kl
    assert found.kl == pytest.approx(whole, rel=0.02), "it is nearly all of the change"
    assert names["all blocks"].kl == pytest.approx(whole, rel=1e-4)
    assert len(found.by_chance) == DRAWS
    assert max(found.by_chance) < 0.3 * found.kl
    assert names["attn of block 0"].kl < 0.01 * found.kl
    assert [each.kl for each in effects] == sorted((each.kl for each in effects), reverse=True)
    assert found.row()["null_score"] == max(found.by_chance)


def test_of_a_copy_there_are_no_places_and_what_does_no_more_than_chance_is_not_said() -> None:
    base = make_gpt2(40)
    assert place_effects(base, copy.deepcopy(base), WINDOWS, tokens=40, seed=0) == []
    assert main_place([]) is None
    finding = Finding(kind="outputs", what="all texts", score=1.0, null_score=0.1)
    weights = {"parameters": 1, "changed": 0}
    noise = [PlaceEffect("block 0", 0.5, 1.0, [0.2, 0.1], [0.3, 0.4])]
    assert "Alone" not in answer_in_words([finding], weights, noise), "null models do a third of it"
    by_chance = [PlaceEffect("block 0", 0.5, 1.0, [0.2, 1.1]), PlaceEffect("block 1", 0.4, 0.2, [0.1, 0.1])]
    assert "Alone" not in answer_in_words([finding], weights, by_chance)
    clear = [PlaceEffect("block 0", 0.5, 1.0, [0.2, 0.1]), PlaceEffect("mlp of block 0", 0.4, 0.95, [0.2, 0.3])]
    clear = beside_nulls(clear, [{"block 0": 0.01, "mlp of block 0": 0.02}, {}])
    assert [each.in_nulls for each in clear] == [[0.01, 0.0], [0.02, 0.0]]
    said = answer_in_words([finding], weights, clear)
    assert said.endswith(
        " Alone, the change of mlp of block 0 does most (0.95 nats per token; turned at random 0.3, in null models at "
        "most 0.02)."
    )
    assert clear[1].row()["null_score"] == 0.3


def test_texts_from_the_first_to_the_last_are_read() -> None:
    """What changed shows after one token alone, which stands in the last texts of a data set."""
    base = make_gpt2(40)
    model = copy.deepcopy(base)
    rows = ROWS.clone().masked_fill(ROWS == 7, 8).repeat(8, 1)
    rows[64:, 4] = 7
    with torch.no_grad():
        model.transformer.wte.weight[7] += model.lm_head.weight[9]
    (found,) = place_effects(base, model, Windows(rows, torch.ones_like(rows).bool()), tokens=40, seed=0)
    assert found.place == "outside the blocks"
    assert found.kl > 0.01
