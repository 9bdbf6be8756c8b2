"""Differences of streams against values by hand, and a direction that is planted."""

from __future__ import annotations

import copy

import pytest
import torch

from ftmech_hf.activations import TracedModel
from ftmech_hf.analysis.activation_difference import compare_activations, difference, read_direction
from tests.conftest import make_gpt2

VOCABULARY = 24


def test_a_constant_shift_is_told_from_what_varies() -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(200, 8, generator=generator)
    shift, along = torch.zeros(8), torch.zeros(8)
    shift[0], along[3] = 2.0, 1.0
    side = torch.randint(2, (200, 1), generator=generator) * 2.0 - 1.0
    found = difference(before, before + shift + side * along)
    assert found.mean[0] == pytest.approx(2.0, abs=1e-5)
    assert found.constant == pytest.approx(4 / 5, abs=0.01), "2^2 of 2^2 + 1^2"
    assert found.relative_norm == pytest.approx((5 / before.square().sum(1).mean().item()) ** 0.5, abs=0.01)


def test_noise_is_not_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    before, noise = torch.randn(2, 500, 16, generator=generator)
    found = difference(before, before + noise)
    assert found.constant < 0.01


def test_no_difference_is_none_and_no_number_is_missing() -> None:
    before = torch.randn(20, 4)
    found = difference(before, before)
    assert (found.relative_norm, found.constant) == (0.0, 0.0)


def test_a_shift_planted_behind_a_block_is_found_there_and_read_as_its_token() -> None:
    base = make_gpt2(VOCABULARY)
    model = copy.deepcopy(base)
    token = 9
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.bias += 3.0 * base.lm_head.weight[token]
    rows = torch.randint(3, VOCABULARY, (40, 9), generator=torch.Generator().manual_seed(0))
    found = compare_activations(TracedModel(base), TracedModel(model), rows)
    assert found.places == 200
    assert list(found.layers) == [0, 1]
    assert found.layers[0].constant == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(found.layers[0].mean, 3.0 * base.lm_head.weight[token].detach(), atol=1e-4, rtol=1e-4)
    assert found.layers[1].constant < 0.999, "the next block makes something of it that depends on the text"
    assert read_direction(base, found.layers[0].mean, 3)[0] == token
    assert read_direction(base, -found.layers[0].mean, 3)[0] != token


def test_a_token_that_begins_every_row_is_passed_over() -> None:
    base, model = make_gpt2(VOCABULARY), make_gpt2(VOCABULARY, seed=1)
    rows = torch.randint(3, VOCABULARY, (10, 9), generator=torch.Generator().manual_seed(0))
    begun = torch.cat([torch.ones(10, 1, dtype=torch.long), rows[:, :-1]], 1)
    traced = TracedModel(base), TracedModel(model)
    with_it, without = compare_activations(*traced, begun, positions=3), compare_activations(*traced, rows, positions=3)
    assert with_it.places == without.places == 30
    before, after = (each.collect(begun, ["resid_post"], positions=[1, 2, 3])["resid_post", 1] for each in traced)
    assert with_it.layers[1].constant == pytest.approx(difference(before, after).constant, rel=1e-5)
