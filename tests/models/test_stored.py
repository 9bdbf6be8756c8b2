"""A router of experts that stands in a buffer is part of what two models can differ in."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from ftmech_hf.analysis.restoring import ALL, EVERYTHING, Part, WeightChange, find_places, replaced
from ftmech_hf.analysis.weights import weight_change
from ftmech_hf.explorer.edits import Edit, EditedModel
from ftmech_hf.models.interpolation import check_same_shapes, interpolate_weights
from ftmech_hf.models.small import small_model
from ftmech_hf.models.stored import as_stored_in, stored_tensors
from ftmech_hf.models.vocabulary import CommonTokens, fit_vocabulary
from ftmech_hf.studies.safety.lines import moved_end
from tests.conftest import make_llama

ROUTER = "model.layers.1.mlp.gate.e_score_correction_bias"
TOKENS = torch.randint(0, 60, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pair() -> tuple[DeepseekV3ForCausalLM, DeepseekV3ForCausalLM]:
    """A mixture of experts, and one that differs in which experts are taken alone."""
    config = DeepseekV3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=2, n_group=2,
        topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, max_position_embeddings=64, pad_token_id=None, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    base = DeepseekV3ForCausalLM(config).eval()
    with torch.no_grad():  # so large that another choice of experts is seen in the logits
        for name, weight in base.named_parameters():
            if "experts" in name:
                weight.normal_(std=0.5)
    tuned = copy.deepcopy(base)
    dict(tuned.named_buffers())[ROUTER].copy_(torch.randn(8))
    return base, tuned


@torch.no_grad()
def logits(model: DeepseekV3ForCausalLM) -> torch.Tensor:
    return model(TOKENS).logits


def test_what_a_checkpoint_holds_is_parameters_once_and_saved_buffers(
    pair: tuple[DeepseekV3ForCausalLM, DeepseekV3ForCausalLM],
) -> None:
    base, tuned = pair
    assert (logits(base) - logits(tuned)).abs().max() > 1e-2  # what must be found
    found = stored_tensors(base)
    assert set(found) - set(dict(base.named_parameters())) == {ROUTER}
    tied = make_llama(20)
    assert set(stored_tensors(tied)) == set(dict(tied.named_parameters()))  # and not what is made on loading


def test_everything_that_moves_between_two_models_moves_it(
    pair: tuple[DeepseekV3ForCausalLM, DeepseekV3ForCausalLM],
) -> None:
    base, tuned = pair
    assert torch.equal(logits(interpolate_weights(base, tuned, 1.0)), logits(tuned))
    edited = EditedModel(base, tuned)
    with edited.edited(Edit(scale=0.0)) as model:
        assert torch.equal(model(TOKENS).logits, logits(base))
    ends = (copy.deepcopy(base), moved_end(base, base, tuned, seed=0))
    assert torch.equal(logits(ends[0]), logits(ends[1]))  # tuning moved nothing, so that nothing moves
    every = torch.arange(64)
    fitted = fit_vocabulary(base, tuned, CommonTokens(every, every.flip(0)))
    assert torch.equal(stored_tensors(fitted)[ROUTER], stored_tensors(base)[ROUTER])  # and not the other model's


def test_it_counts_as_a_change_and_can_be_taken_back(
    pair: tuple[DeepseekV3ForCausalLM, DeepseekV3ForCausalLM],
) -> None:
    base, tuned = pair
    change = weight_change(stored_tensors(base), stored_tensors(tuned), {})
    assert {name for name, size in change.vectors.items() if size} == {ROUTER}
    parts = WeightChange(base, tuned, find_places(tuned))
    assert parts.places[EVERYTHING] == [ROUTER]
    before = logits(tuned)
    with replaced(tuned, parts.without(Part(EVERYTHING, ALL))) as model:
        assert torch.equal(logits(model), logits(base))
    assert torch.equal(logits(tuned), before)
    other = copy.deepcopy(base)
    del other.model.layers[1].mlp.gate._buffers["e_score_correction_bias"]
    with pytest.raises(ValueError, match="e_score_correction_bias"):
        check_same_shapes(base, other)


@pytest.mark.parametrize("kind", ["gemma3_text", "deepseek_v3", "qwen3_next", "mamba", "gpt_neox", "falcon_h1"])
def test_a_model_in_another_type_of_number_is_what_its_checkpoint_loads_as(kind: str, tmp_path: Path) -> None:
    """Also where an architecture keeps some numbers in float32, which ``to`` would round."""
    small_model(kind).save_pretrained(tmp_path)
    load = type(small_model(kind)).from_pretrained
    want, found = (
        load(tmp_path, dtype=torch.bfloat16),
        as_stored_in(torch.bfloat16, load(tmp_path, dtype=torch.float32)),
    )
    tensors = dict([*found.named_parameters(), *found.named_buffers()])
    for name, tensor in (*want.named_parameters(), *want.named_buffers()):
        assert tensors[name].dtype == tensor.dtype, name
        assert torch.equal(tensors[name], tensor), name
    assert found.config.dtype == want.config.dtype == torch.bfloat16


def test_some_numbers_stay_in_float32(tmp_path: Path) -> None:
    """What the test above rests on: there is something that ``to`` rounds."""
    model = small_model("gemma3_text")
    kept = [name for name, each in as_stored_in(torch.bfloat16, model).named_buffers() if each.dtype == torch.float32]
    assert any("inv_freq" in name for name in kept)
