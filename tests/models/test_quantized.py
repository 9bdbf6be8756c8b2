"""Quantized models are unpacked into what their layers compute, and stay as they were."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ftmech_hf.models.quantized import packed_weights, unpacked
from ftmech_hf.studies.diagnosis.in_memory import plain_model
from tests.conftest import make_llama

IDS = torch.arange(20)[None]


class EightBits(nn.Module):
    """A linear layer of whole numbers and a scale for each row, under names of its own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.steps = nn.Buffer(linear.weight.detach().abs().amax(1, keepdim=True) / 127)
        self.weight = nn.Parameter((linear.weight / self.steps).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.weight * self.steps, self.bias)


def quantize(model: PreTrainedModel) -> PreTrainedModel:
    packed = copy.deepcopy(model)
    for name, module in list(packed.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            packed.set_submodule(name, EightBits(module))
    return packed


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits  # type: ignore[no-any-return]


def test_an_unpacked_model_computes_what_the_quantized_one_does_and_not_what_was_before() -> None:
    before = make_llama(32)
    before.config.attention_bias = True  # a matrix is not its shift
    for layer in before.model.layers:
        for projection in (
            layer.self_attn.q_proj,
            layer.self_attn.k_proj,
            layer.self_attn.v_proj,
            layer.self_attn.o_proj,
        ):
            projection.bias = nn.Parameter(torch.randn(projection.out_features))
    packed = quantize(before)
    packed.config.quantization_config = {"quant_method": "eight bits"}
    names, said = packed_weights(packed), logits(packed)
    assert len(names) == 14
    found = unpacked(packed)
    assert packed_weights(found) == {}
    assert not hasattr(found.config, "quantization_config")
    torch.testing.assert_close(logits(found), said, atol=1e-4, rtol=0)
    assert (logits(before) - said).abs().max() > 1e-3  # else it would be no test of the scales
    assert packed_weights(packed) == names
    assert torch.equal(logits(packed), said)
    assert {weight.dtype for weight in found.parameters()} == {torch.float32}
    steps = before.model.layers[1].mlp.up_proj.weight.abs().amax(1, keepdim=True) / 127
    left = found.model.layers[1].mlp.up_proj.weight - before.model.layers[1].mlp.up_proj.weight
    assert (left.abs() <= 0.51 * steps).all()


def test_a_diagnosis_takes_a_quantized_model_and_says_so() -> None:
    packed = quantize(make_llama(32))
    with pytest.warns(UserWarning, match=r"^tuned: 14 of its weights are quantized \(torch\.int8\); a copy of it is"):
        found = plain_model(packed, "tuned")
    assert packed_weights(found) == {}
    torch.testing.assert_close(logits(found), logits(packed), atol=1e-4, rtol=0)


def _settings(package: str) -> Any:
    from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

    if package == "bitsandbytes":
        return BitsAndBytesConfig(load_in_4bit=True)
    if package == "optimum":
        return QuantoConfig(weights="int8")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["bitsandbytes", "optimum", "torchao"])
def test_what_packages_made_is_unpacked(package: str, tmp_path: Any) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **wide)).save_pretrained(tmp_path)  # of whole blocks of 4 bits
    packed = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=_settings(package), device_map="cpu")
    assert len(packed_weights(packed)) == 14
    found = unpacked(packed)
    assert packed_weights(found) == {}
    torch.testing.assert_close(logits(found), logits(packed).float(), atol=2e-2, rtol=0)
    found.save_pretrained(tmp_path / "plain")
    assert not hasattr(AutoModelForCausalLM.from_pretrained(tmp_path / "plain").config, "quantization_config")
