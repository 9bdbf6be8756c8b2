"""Quantized models are unpacked into what their layers compute, and stay as they were."""

from __future__ import annotations

import copy
import importlib.util
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ftmech_hf.config import Notice
from ftmech_hf.models import quantized
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.models.quantized import packed_weights, unpacked
from ftmech_hf.studies.diagnosis.in_memory import plain_model
from tests.conftest import make_llama

IDS = torch.arange(20)[None]


class EightBits(nn.Linear):
    """A linear layer of whole numbers and a scale for each row, under names of its own."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.steps = nn.Buffer(linear.weight.detach().abs().amax(1, keepdim=True) / 127)
        self.weight = nn.Parameter((linear.weight / self.steps).round().to(torch.int8), requires_grad=False)
        self.bias = linear.bias

    def forward(self, values: Tensor) -> Tensor:
        return nn.functional.linear(values, self.weight * self.steps, self.bias)


def quantize(model: PreTrainedModel, kind: type[EightBits] = EightBits) -> PreTrainedModel:
    packed = copy.deepcopy(model)
    for name, module in list(packed.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            packed.set_submodule(name, kind(module))
    return packed


class AsBuffer(EightBits):
    """The same, of which no number is a parameter, as in BitNet's layers."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        steps = self.weight.data
        del self.weight
        self.weight = nn.Buffer(steps)  # type: ignore[assignment]


class OtherwisePacked(AsBuffer):
    """Its buffer has another name, as GPTQ's."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        self.qweight, self.weight = nn.Buffer(self.weight), None  # type: ignore[assignment]


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


def test_a_shift_does_not_hide_the_matrix_beside_it() -> None:
    """As of Qwen2's keys and queries in bfloat16: with the shift, weights would be rounded to its last digit."""
    before = make_llama(32)
    before.config.attention_bias = True
    for layer in before.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            projection = layer.self_attn.get_submodule(name)
            projection.bias = nn.Parameter(50 * torch.randn(projection.out_features))
    plain = unpacked(quantize(before))
    found = unpacked(quantize(copy.deepcopy(before).to(torch.bfloat16)))
    for layer, expected in zip(found.model.layers, plain.model.layers, strict=True):
        weight, right = layer.self_attn.k_proj.weight, expected.self_attn.k_proj.weight
        assert (weight - right).norm() < 0.01 * right.norm()  # of bfloat16
        assert torch.equal(layer.self_attn.k_proj.bias, expected.self_attn.k_proj.bias.bfloat16().float())
    packed = quantize(before)
    unpacked(packed)
    assert packed.model.layers[0].self_attn.k_proj.bias is not None


def test_weights_that_are_packed_in_a_buffer_are_seen() -> None:
    """No instrument would find a matrix in such a layer, and a diagnosis would say that none changed."""
    before = make_llama(32)
    model = quantize(before, AsBuffer)
    assert set(packed_weights(model).values()) == {"torch.int8"}
    assert len(packed_weights(model)) == 2 * 7
    with pytest.warns(Notice, match=r"base: 14 of its weights are quantized \(torch.int8\)"):
        plain = plain_model(model, "base")
    assert packed_weights(plain) == {}
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=1e-4)
    said = r"qweight is quantized \(torch.int8\) in a layer of OtherwisePacked, expected linear layers"
    with pytest.warns(Notice), pytest.raises(ValueError, match=said):
        plain_model(quantize(before, OtherwisePacked), "base")


def test_what_was_unpacked_is_there_once_when_the_model_goes_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    alive: list[bool] = []
    kept = quantized._matrix_of

    def matrix_of(*given: Any) -> Tensor:
        found = kept(*given)
        made.append(weakref.ref(found))
        return found

    def placed_like(plain: PreTrainedModel, model: PreTrainedModel) -> PreTrainedModel:
        alive.extend(each() is not None for each in made)
        return plain

    monkeypatch.setattr(quantized, "_matrix_of", matrix_of)
    monkeypatch.setattr(quantized, "placed_like", placed_like)
    unpacked(quantize(make_llama(32)))
    assert alive == [False] * 14


def test_a_diagnosis_takes_a_quantized_model_and_says_so() -> None:
    packed = quantize(make_llama(32))
    with pytest.warns(UserWarning, match=r"^tuned: 14 of its weights are quantized \(torch\.int8\); a copy of it is"):
        found = plain_model(packed, "tuned")
    assert packed_weights(found) == {}
    torch.testing.assert_close(logits(found), logits(packed), atol=1e-4, rtol=0)


def test_layers_are_asked_in_the_type_of_number_that_they_take() -> None:
    """Quantized from bfloat16, they refuse unit vectors in float32; what they make of them is in bfloat16, exactly."""
    before = make_llama(32).to(torch.bfloat16)
    packed = quantize(before)
    layer = packed.model.layers[1].mlp.up_proj
    with pytest.raises(RuntimeError, match="dtype"):
        layer(torch.eye(layer.in_features))
    found = unpacked(packed)
    for name in packed_weights(packed):
        layer = packed.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(found.get_parameter(name), (layer.weight * layer.steps).float())
    assert {weight.dtype for weight in found.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["model.norm.weight", "model.rotary_emb.inv_freq"])
def test_what_the_architecture_has_and_the_quantized_model_has_not_is_named(name: str) -> None:
    packed = quantize(make_llama(32))
    where, _, last = name.rpartition(".")
    delattr(packed.get_submodule(where), last)
    with pytest.raises(ValueError, match=rf"^model: {name} of a LlamaForCausalLM is not in the quantized model$"):
        unpacked(packed)


def test_a_layer_that_cannot_compute_is_named_with_the_reason() -> None:
    """As bitsandbytes of 4 bits on a CPU, for matrices that are no whole number of its blocks."""
    packed = quantize(make_llama(32))

    def forward(values: Tensor) -> Tensor:
        raise AssertionError("N must be divisible\nby block_n")

    packed.model.layers[0].mlp.up_proj.forward = forward
    reason = r"cannot compute here: AssertionError: N must be divisible by block_n"
    with pytest.raises(ValueError, match=rf"^model: model\.layers\.0\.mlp\.up_proj\.weight is quantized .*{reason}$"):
        unpacked(packed)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_on_a_quantized_base_is_added_to_what_that_computes(dora: bool) -> None:
    """Merged into its whole numbers, most of the adapter would be rounded away, and nothing would be said."""
    packed = quantize(make_llama(32))
    kind = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], modules_to_save=["lm_head"], use_dora=dora)
    if dora:  # whose lengths of rows cannot be taken of whole numbers
        packed = unpacked(packed)
    with quiet_peft():
        adapted = get_peft_model(packed, kind).eval()
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            nn.init.normal_(weight, std=0.3)
    said, before = logits(adapted), copy.deepcopy(adapted.state_dict())
    with adapted.disable_adapter():
        without = logits(adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was quantized
        found = plain_model(adapted, "tuned")
    assert packed_weights(found) == {}
    assert not any("lora" in name or "base_layer" in name for name in found.state_dict())
    torch.testing.assert_close(logits(found), said, atol=1e-4, rtol=0)
    assert (without - said).abs().max() > 0.1
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())


def test_of_two_adapters_on_a_quantized_base_the_active_one_counts_and_none_is_drawn_anew() -> None:
    """PiSSA takes what it begins with out of its base, which was done when it was made."""
    with quiet_peft():
        adapted = get_peft_model(quantize(make_llama(32)), LoraConfig(r=2, target_modules=["q_proj"]))
        adapted.add_adapter("second", LoraConfig(r=3, target_modules=["v_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    for active in ("second", "default"):
        adapted.set_adapter(active)
        adapted.peft_config[active].init_lora_weights = "pissa"
        said = logits(adapted.eval())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was quantized
            torch.testing.assert_close(logits(plain_model(adapted, "tuned")), said, atol=1e-4, rtol=0)
        assert adapted.peft_config[active].init_lora_weights == "pissa"


def _settings(package: str) -> Any:
    from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

    if package.startswith("bitsandbytes"):
        return BitsAndBytesConfig(load_in_8bit=True) if package.endswith("8") else BitsAndBytesConfig(load_in_4bit=True)
    if package == "optimum":
        return QuantoConfig(weights="int8")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _saved(folder: Path) -> None:
    """A model of whole blocks of 4 bits."""
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, **wide)).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["bitsandbytes", "bitsandbytes 8", "optimum", "torchao"])
def test_a_qlora_on_what_packages_made_is_merged_as_it_answers(package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package.split()[0]) is None:
        pytest.skip(f"{package} is not installed")
    _saved(tmp_path)
    packed = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=_settings(package), device_map="cpu")
    adapted = get_peft_model(packed, LoraConfig(r=4, target_modules=["q_proj", "up_proj"])).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    said = logits(adapted).float()
    with adapted.disable_adapter():
        assert (logits(adapted).float() - said).abs().max() > 0.2
    torch.testing.assert_close(logits(plain_model(adapted, "tuned")), said, atol=2e-2, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["bitsandbytes", "bitsandbytes 8", "optimum", "torchao"])
def test_what_packages_made_is_unpacked(package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package.split()[0]) is None:
        pytest.skip(f"{package} is not installed")
    _saved(tmp_path)
    packed = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=_settings(package), device_map="cpu")
    assert len(packed_weights(packed)) == 14
    found = unpacked(packed)
    assert packed_weights(found) == {}
    torch.testing.assert_close(logits(found), logits(packed).float(), atol=2e-2, rtol=0)
    found.save_pretrained(tmp_path / "plain")
    assert not hasattr(AutoModelForCausalLM.from_pretrained(tmp_path / "plain").config, "quantization_config")
