"""Weights of two models are mixed only where both would compute the same with them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ftmech_hf.analysis.restoring import WeightChange, find_places
from ftmech_hf.models.computation import differing_setting
from ftmech_hf.models.interpolation import check_same_shapes, interpolate_weights
from ftmech_hf.models.small import small_model

SIZES: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}


def make_model(**settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **settings})).eval()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}, "rope_parameters"),
        ({"rms_norm_eps": 1e-2}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}, "head_dim"),
    ],
)
def test_a_config_that_computes_otherwise_is_refused_by_its_setting(settings: dict[str, Any], name: str) -> None:
    base, other = make_model(), make_model(**settings)
    assert {key: p.shape for key, p in base.named_parameters()} == {key: p.shape for key, p in other.named_parameters()}
    found = differing_setting(base, other)
    assert found is not None
    assert found[0] == name
    for mixing in (
        lambda: interpolate_weights(base, other, 1.0),
        lambda: check_same_shapes(base, base, other),
        lambda: WeightChange(base, other, find_places(other)),
    ):
        with pytest.raises(ValueError, match=rf"^(models|finetuned): {name} is [^\n]* in one config, expected [^\n]*$"):
            mixing()


def test_what_changes_no_computation_is_no_difference() -> None:
    base = make_model()
    same = make_model(
        max_position_embeddings=4096, pad_token_id=3, eos_token_id=[2, 5], attention_dropout=0.1, use_cache=False,
        initializer_range=0.5, tie_word_embeddings=False, dtype="float32", pretraining_tp=2, unsloth_version="1",
        rope_parameters={"rope_type": "default", "rope_theta": 10000},
    )  # fmt: skip
    same.config.name_or_path, same.config.architectures = "elsewhere", ["LlamaForCausalLM"]
    same.set_attn_implementation("eager")
    assert differing_setting(base, same) is None
    mixed = interpolate_weights(base, same, 0.5)
    assert torch.equal(mixed.lm_head.weight, (base.lm_head.weight + same.lm_head.weight) / 2)


def test_how_long_rows_may_be_counts_where_positions_depend_on_it() -> None:
    lengths = (64, 128)
    one, other = (make_model(rope_parameters=dict(DYNAMIC), max_position_embeddings=length) for length in lengths)
    assert differing_setting(one, other) == ("max_position_embeddings", 64, 128)
    one, other = (make_model(rope_parameters=dict(YARN), max_position_embeddings=length) for length in lengths)
    assert differing_setting(one, other) is None  # the factor says it all
    ids = torch.randint(1, 20, (1, 64))
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)


def test_one_computation_may_be_said_in_two_ways() -> None:
    """A file of 32 bits keeps an epsilon so; and a model of it is no other one."""
    narrow = float(np.float32(1e-5))
    assert narrow != 1e-5
    plain = make_model(rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    for rope in (
        {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 1.0},
    ):
        same = make_model(rms_norm_eps=narrow, rope_parameters=rope)
        assert differing_setting(plain, same) is None
        mixed = interpolate_weights(plain, same, 1.0)
        assert torch.equal(mixed.lm_head.weight, same.lm_head.weight)
    half = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    assert differing_setting(plain, make_model(rms_norm_eps=1e-5, rope_parameters=half)) is not None
    assert differing_setting(plain, make_model(rms_norm_eps=1.001e-5)) is not None
    wide, said = (GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=9, n_inner=size))
                  for size in (None, 128))  # fmt: skip
    assert differing_setting(wide, said) is None


def test_a_window_counts_where_a_layer_has_one() -> None:
    def built(config: Any) -> Any:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)

    sizes = {**SIZES, "head_dim": 8}
    qwen = [built(Qwen2Config(**SIZES, max_window_layers=number)) for number in (1, 2)]
    assert differing_setting(*qwen) is None
    gemma = [built(Gemma3TextConfig(**sizes, sliding_window=width)) for width in (4, 8)]
    assert differing_setting(*gemma) == ("sliding_window", 4, 8)
    everywhere = {**sizes, "layer_types": ["full_attention"] * 2}
    gemma = [built(Gemma3TextConfig(**everywhere, sliding_window=width)) for width in (4, 8)]
    assert differing_setting(*gemma) is None


@pytest.mark.parametrize("kind", ["gpt2", "falcon_h1", "gemma4", "mpt", "deepseek_v3", "opt", "phi4_multimodal"])
def test_a_copy_computes_as_what_it_is_copied_from(kind: str) -> None:
    model = small_model(kind)
    again = copy.deepcopy(model)
    assert differing_setting(model, again) is None
    settings = again.config.get_text_config()
    settings.hidden_act = settings.activation_function = "changed"
    if "hidden_act" in type(settings)().to_dict() or "activation_function" in type(settings)().to_dict():
        assert differing_setting(model, again) is not None
