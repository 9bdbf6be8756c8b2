from __future__ import annotations

import pytest
import torch

from ftmech_hf.models.presets import PRESETS, build_model, gpt2_config


@pytest.mark.parametrize(("preset", "parameters"), [("nano", 615_552), ("micro", 1_293_760), ("paper", 2_833_152)])
def test_parameter_counts(preset: str, parameters: int) -> None:
    vocabulary = {"nano": 48, "micro": 112, "paper": 266}[preset]
    assert build_model(preset, vocabulary, seed=0).num_parameters() == parameters


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = build_model("nano", 48, seed=0).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = build_model("nano", 48, seed=0).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    other = build_model("nano", 48, seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_unknown_presets_and_stock_architecture() -> None:
    with pytest.raises(ValueError, match="preset: unknown 'giant', expected one of nano, micro, paper"):
        gpt2_config("giant", 48)
    config = gpt2_config("paper", 300)
    assert (config.n_layer, config.n_head, config.n_embd) == PRESETS["paper"][:3] == (6, 6, 192)
    assert not config.tie_word_embeddings
    assert max(config.bos_token_id, config.eos_token_id, config.pad_token_id) < 300
