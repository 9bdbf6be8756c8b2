from __future__ import annotations

from typing import Literal

import pytest
import torch
from transformers import LlamaForCausalLM

from ftmech_hf.models.presets import (
    PRESETS,
    Preset,
    build_model,
    expected_parameters,
    find_preset,
    gated_width,
    gpt2_config,
    llama_config,
)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("nano", 351_072), ("micro", 1_293_760), ("paper", 2_833_152), ("nano-llama", 341_664)],
)
def test_parameter_counts(preset: str, parameters: int) -> None:
    vocabulary = {"micro": 112, "paper": 266}.get(preset, 48)
    assert build_model(PRESETS[preset], vocabulary, seed=0).num_parameters() == parameters


def test_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    first = build_model(PRESETS["nano"], 48, seed=0).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = build_model(PRESETS["nano"], 48, seed=0).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    other = build_model(PRESETS["nano"], 48, seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def test_the_lfm2_is_a_stock_one_that_a_library_fits_in() -> None:
    model = build_model(find_preset("nano-library"), 421, seed=0)
    assert type(model).__name__ == "Lfm2ForCausalLM"
    assert model.config.layer_types == ["conv", "full_attention"] * 2
    assert (model.config.conv_L_cache, model.config.intermediate_size, model.config.tie_word_embeddings) == (
        4,
        344,
        True,
    )
    assert model(torch.arange(96)[None]).logits.shape == (1, 96, 421)
    # The width of its MLPs is ours: left alone, the class takes another one.
    assert model.model.layers[0].feed_forward.w1.weight.shape == (344, 128)


def test_unknown_presets_and_stock_architecture() -> None:
    with pytest.raises(ValueError, match="preset: unknown 'giant', expected one of nano, micro, paper, nano-llama"):
        find_preset("giant")
    config = gpt2_config(find_preset("paper"), 300)
    assert (config.n_layer, config.n_head, config.n_embd) == PRESETS["paper"][:3] == (6, 6, 192)
    assert not config.tie_word_embeddings
    assert max(config.bos_token_id, config.eos_token_id, config.pad_token_id) < 300


def test_a_preset_can_be_changed_and_nonsense_is_refused() -> None:
    assert find_preset("nano", n_layer=2, n_head=None) == PRESETS["nano"]._replace(n_layer=2)
    assert build_model(find_preset("nano", n_embd=64, n_layer=1), 48, seed=0).num_parameters() < 100_000
    with pytest.raises(ValueError, match="n_head: 5 heads do not divide n_embd: 96"):
        find_preset("nano", n_head=5)
    with pytest.raises(ValueError, match="n_layer: 0, expected at least 1"):
        find_preset("nano", n_layer=0)


def test_the_llama_is_a_stock_one_that_the_task_fits_in() -> None:
    model = build_model(find_preset("nano-llama"), 48, seed=0)
    assert type(model).__name__ == "LlamaForCausalLM"
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (3, 96, 256)
    assert (config.max_position_embeddings, config.tie_word_embeddings, config.pad_token_id) == (64, False, 0)
    assert model(torch.arange(40)[None]).logits.shape == (1, 40, 48)
    with pytest.raises(ValueError, match=r"dropout: 0\.1, which Llama models do not have"):
        build_model(find_preset("nano-llama"), 48, seed=0, dropout=0.1)


def test_the_papers_model_of_stories_has_91_million_parameters() -> None:
    """App. F: 12 layers, 768, 12 heads, 8192 tokens, tied. That is what a gated MLP of 8/3 of the width gives."""
    shape = PRESETS["paper-stories"]
    assert (gated_width(shape), shape.tied) == (2048, True)
    assert expected_parameters(shape, 8192) == 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768) + 768 + 8192 * 768
    assert round(expected_parameters(shape, 8192) / 1e6) == 91
    with torch.device("meta"):
        model = LlamaForCausalLM(llama_config(shape, 8192))
    assert model.num_parameters() == expected_parameters(shape, 8192) == 91_245_312
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_tied_embeddings_are_counted_once(architecture: Literal["gpt2", "llama"]) -> None:
    shape = Preset(n_layer=1, n_head=2, n_embd=16, n_positions=32, architecture=architecture, tied=True)
    model = build_model(shape, 60, seed=0)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert expected_parameters(shape._replace(tied=False), 60) == model.num_parameters() + 60 * 16
