"""What sees the tokens that it is to predict is no causal language model, whatever class it loads as."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from ftmech_hf.activations import TracedModel
from ftmech_hf.models.causality import _depends_on_last, check_causal
from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.models.compiled_config import CompiledConfig
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.small import small_model
from ftmech_hf.models.tolerance import logits_apart
from ftmech_hf.studies.diagnosis.in_memory import plain_model
from tests.conftest import make_gpt2, make_llama

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
REFUSED = r"^model: \w+ is not causal, [^\n]* \(by [\d.e-]+ of their size\); expected a causal language model$"


def make_bidirectional(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind in ("bert", "roberta"):
        return AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **SIZES)).eval()
    if kind == "gemma3_text":
        config = AutoConfig.for_model(
            kind, **SIZES, num_key_value_heads=2, head_dim=8, use_bidirectional_attention=True, sliding_window=16
        )
        return AutoModelForCausalLM.from_config(config).eval()
    return small_model(kind)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gemma3_text", "xlnet", "xlm"])
def test_a_model_that_sees_what_follows_is_refused(kind: str, tmp_path: Path) -> None:
    model = make_bidirectional(kind)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=REFUSED):
        load_model(str(tmp_path))
    with pytest.raises(ValueError, match=REFUSED):
        plain_model(model, "base")
    if kind == "gemma3_text":  # of which the blocks are found
        with pytest.raises(ValueError, match=REFUSED):
            TracedModel(model)


def test_one_later_token_that_is_seen_is_enough() -> None:
    """Whatever else is causal, and the last position alone hears of it."""
    model = make_llama(30)

    def leak(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :-2], output[:, -2:-1] + 0.1 * output[:, -1:], output[:, -1:]], 1)

    check_causal(model)
    with model.get_input_embeddings().register_forward_hook(leak), pytest.raises(ValueError, match=REFUSED):
        check_causal(model)
    check_causal(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "mixtral", "gpt_oss", "prophetnet", "mamba", "rwkv", "deepseek_v32", "bloom", "git"]
)
def test_causal_models_pass(kind: str, dtype: torch.dtype) -> None:
    check_causal(small_model(kind).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_all_logits_have_in_common_hides_no_later_token(dtype: torch.dtype) -> None:
    model = make_bidirectional("bert")
    with torch.no_grad():
        model.get_output_embeddings().bias.fill_(-30.0)
    with pytest.raises(ValueError, match=REFUSED):
        check_causal(model.to(dtype))


@pytest.mark.parametrize("value", [-torch.inf, torch.finfo(torch.float32).min, -1e9])
def test_a_model_that_masks_tokens_is_no_less_causal(value: float) -> None:
    model = make_llama(30)

    def mask(_: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(-1, torch.tensor([3, 7]), value)

    with model.get_output_embeddings().register_forward_hook(mask):
        check_causal(model)


def test_how_far_logits_are_apart() -> None:
    model, rows = make_gpt2(30), torch.tensor([[1.0, 3.0], [0.0, 8.0]])
    assert logits_apart(model, rows, rows + 5) <= 0
    assert logits_apart(model, rows - 1e6, rows - 1e6 + 5) <= 0
    assert logits_apart(model, rows, rows * 1.5) == pytest.approx(0.5, abs=1e-6)
    assert logits_apart(model, rows * 0, rows * 0) <= 0
    assert logits_apart(model, rows * 0, rows) == math.inf
    assert not logits_apart(model, rows, rows * torch.nan) <= 1
    assert not logits_apart(model, rows * 0, rows * torch.nan) <= 1
    assert not logits_apart(model, rows * torch.nan, rows) <= 1
    assert logits_apart(model, rows * 100, rows * 100.001) > 1e-6
    lowest = torch.finfo(torch.float32).min
    for never in (-1e4, -torch.inf, lowest):  # what is never written is no measure of the others
        masked = torch.cat([rows, torch.full((2, 1), never)], 1)
        assert logits_apart(model, masked, masked) <= 0
        moved = torch.cat([rows * 1.5, torch.full((2, 1), never)], 1)
        assert logits_apart(model, masked, moved) == pytest.approx(0.5, abs=1e-6)
        assert not logits_apart(model, masked, torch.cat([rows, rows[:, :1]], 1)) <= 0.5
    assert logits_apart(model, rows[:, :1], rows[:, :1]) <= 0
    assert logits_apart(model, rows[:, :1], rows[:, :1] * 2) == pytest.approx(1)  # a number alone is its own measure
    half = model.half()  # of which numbers about 800 are apart by a half
    assert logits_apart(half, rows * 100, rows * 100 + torch.tensor([0.1, 0.0])) <= 0


def test_nothing_is_drawn_and_nothing_left_behind() -> None:
    model = make_gpt2(30)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_causal(model)
    assert torch.equal(torch.rand(3), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_tried_is_left_to_others() -> None:
    one_token = AutoConfig.for_model("bert", **{**SIZES, "max_position_embeddings": 1})
    check_causal(AutoModelForCausalLM.from_config(one_token).eval())
    check_causal(make_gpt2(1))  # knows one token
    model = make_gpt2(30)
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("not now")))
    check_causal(model)


def test_programs_that_answer_once_may_look_everywhere() -> None:
    words = list(range(16))
    sizes = {"hidden_size": 16, "output_ids": words, "output_directions": words, "causal": False}
    torch.manual_seed(0)
    model = CompiledModel(CompiledConfig(**sizes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    check_causal(model)
    assert _depends_on_last(model) > 0.01  # what it is not held against


def test_numbers_that_are_drawn_anew_are_the_same_for_both_rows() -> None:
    model = make_llama(30)
    noise = model.get_input_embeddings().register_forward_hook(lambda _, args, found: found + torch.randn(found.shape))
    check_causal(model)
    noise.remove()
