"""A model in another one's vocabulary is itself but for the numbers of its tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig, LlamaForCausalLM

from ftmech_hf.jobs.padding import mask_padding
from ftmech_hf.models.vocabulary import CommonTokens, compared_tokens, fit_vocabulary, has_tied_embeddings

WORDS = {f"w{number}": number for number in range(20)}
MORE = {**{f"w{number}": number + 1 for number in range(19)}, "<chat>": 0, "</chat>": 20, "w19": 21}
"""The same words, each elsewhere, and two of its own."""
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.3, "bos_token_id": None,
}  # fmt: skip
OTHERWISE: list[dict[str, Any]] = [
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    {"rms_norm_eps": 1e-2},
    {"hidden_act": "gelu"},
    {"tie_word_embeddings": True},
    {},
]


def make_model(rows: int, **settings: Any) -> LlamaForCausalLM:
    torch.manual_seed(rows)
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, **{**SIZES, "pad_token_id": None, **settings})).eval()


def in_both(common: CommonTokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens that both know, as the first and as the second number them."""
    places = torch.randint(len(common.first), (4, 9), generator=torch.Generator().manual_seed(0))
    return common.first[places], common.second[places]


@torch.no_grad()
@pytest.mark.parametrize("settings", OTHERWISE)
@pytest.mark.parametrize("rows", [22, 20])
def test_it_answers_as_before_whatever_the_other_config_says(settings: dict[str, Any], rows: int) -> None:
    tied = settings.get("tie_word_embeddings", False)
    base, tuned = make_model(20, tie_word_embeddings=tied), make_model(22, **settings)
    first, second, words = (base, tuned, (WORDS, MORE)) if rows == 22 else (tuned, base, (MORE, WORDS))
    common = compared_tokens("finetuned", first, second, words)
    before = {name: weight.clone() for name, weight in first.named_parameters()}
    fitted = fit_vocabulary(first, second, common)
    own, theirs = in_both(common)
    expected, found = first(own).logits[..., common.first], fitted(theirs).logits[..., common.second]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert fitted.config.vocab_size == fitted.vocab_size == fitted.model.vocab_size == rows
    assert (fitted.lm_head.out_features, fitted.model.embed_tokens.num_embeddings) == (rows, rows)
    assert has_tied_embeddings(fitted) == tied
    assert fitted.config.rope_parameters == first.config.rope_parameters
    assert not fitted.training
    unknown = sorted(set(range(rows)) - set(common.second.tolist()))
    assert torch.equal(fitted.lm_head.weight[unknown], second.lm_head.weight[unknown])
    assert all(torch.equal(before[name], weight) for name, weight in first.named_parameters())
    assert first.config.vocab_size == len(first.lm_head.weight) == 42 - rows


@torch.no_grad()
def test_it_can_be_saved_and_loaded(tmp_path: Any) -> None:
    base, tuned = make_model(20), make_model(22, **OTHERWISE[0])
    common = compared_tokens("finetuned", tuned, base, (MORE, WORDS))
    fitted = fit_vocabulary(tuned, base, common)
    fitted.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = in_both(common)[1]
    assert torch.equal(again(rows).logits, fitted(rows).logits)


@torch.no_grad()
def test_a_bias_moves_with_its_tokens_and_padding_is_that_of_the_vocabulary() -> None:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "eos_token_id": None,
             "bos_token_id": None}  # fmt: skip
    base, tuned = (AutoModelForCausalLM.from_config(GPTJConfig(vocab_size=rows, **sizes)).eval() for rows in (20, 22))
    for model in (base, tuned):
        model.lm_head.bias.normal_()
    common = compared_tokens("finetuned", tuned, base, (MORE, WORDS))
    own, theirs = in_both(common)
    fitted = fit_vocabulary(tuned, base, common)
    torch.testing.assert_close(fitted(theirs).logits[..., common.second], tuned(own).logits[..., common.first])
    padded = fit_vocabulary(make_model(22, pad_token_id=21), make_model(20, pad_token_id=5), common)
    assert padded.config.pad_token_id == padded.model.embed_tokens.padding_idx == 5


@torch.no_grad()
def test_what_passes_over_padding_is_told_the_padding_of_the_new_vocabulary() -> None:
    base, tuned = make_model(20), make_model(22)
    common = compared_tokens("finetuned", tuned, base, (MORE, WORDS))
    plain = copy.deepcopy(tuned)
    fitted = fit_vocabulary(mask_padding(tuned, 21), mask_padding(base, 3), common)
    own, theirs = in_both(common)
    own, theirs = own[:1, 1:], torch.cat([torch.full((1, 2), 3), theirs[:1, 1:]], 1)
    assert theirs[0, 2] != 3
    expected = plain(own).logits[:, -1, common.first]
    torch.testing.assert_close(fitted(theirs).logits[:, -1, common.second], expected, atol=1e-4, rtol=1e-4)
