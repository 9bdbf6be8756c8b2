"""GGUF files as models: what they hold is what the same weights in safetensors are, up to their quantization."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftmech_hf.models.configs import model_positions, model_vocabulary
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import load_model, load_tokenizer, random_twin
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig, named_models

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh", "ab", "cd"]
HAS_GGUF = importlib.util.find_spec("gguf") is not None
needs_gguf = pytest.mark.skipif(not HAS_GGUF, reason="the extra gguf is not installed")
ROWS = torch.tensor([[1, 4, 5, 6, 7], [1, 9, 8, 12, 13]])


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(WORDS), max_position_embeddings=64, initializer_range=0.3, rms_norm_eps=1e-6,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def rotary_order(weight: Any, heads: int) -> Any:
    """Pairs of rotary dimensions beside each other, as llama.cpp keeps queries and keys."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM, *, quantized: bool = False) -> Path:
    import gguf

    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3] * 4 + [1] * (len(WORDS) - 4))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name.startswith("model.layers."):
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(NAMES[part])
            values = rotary_order(values, heads) if heads else values
            called = f"blk.{layer}.{NAMES[part]}.weight"
        else:
            called = f"{OUTSIDE[name.removesuffix('.weight')]}.weight"
        values = np.ascontiguousarray(values)
        if quantized and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(called, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(called, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@needs_gguf
@pytest.mark.parametrize("quantized", [False, True])
def test_a_file_is_the_model_that_was_written_into_it(tmp_path: Path, quantized: bool) -> None:
    model = make_model()
    name = str(write_gguf(tmp_path / "model.gguf", model, quantized=quantized))
    loaded = load_model(name)
    assert loaded.dtype == torch.float32
    assert not loaded.training
    rounding = 1 / 127 if quantized else 0.0  # of the largest of 32 numbers
    for key, weight in model.named_parameters():
        found = loaded.get_parameter(key)
        assert (found - weight).abs().max() <= rounding * weight.abs().max()
        assert torch.equal(found, weight) == (not quantized or weight.ndim == 1)
    with torch.no_grad():
        expected, found = model(ROWS).logits, loaded(ROWS).logits
    torch.testing.assert_close(found, expected, atol=0.5 if quantized else 1e-5, rtol=0)
    assert (model_positions(name), model_vocabulary(name)) == (64, len(WORDS))


@needs_gguf
def test_it_can_be_saved_as_any_model_and_drawn_anew(tmp_path: Path) -> None:
    loaded = load_model(str(write_gguf(tmp_path / "model.gguf", make_model(), quantized=True)))
    loaded.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))  # which refuses what is quantized
    assert all(torch.equal(weight, again.get_parameter(name)) for name, weight in loaded.named_parameters())
    drawn = random_twin(loaded, seed=1)
    assert not torch.equal(drawn.get_input_embeddings().weight, loaded.get_input_embeddings().weight)


@needs_gguf
def test_its_tokenizer_is_inside(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_gguf(tmp_path / "model.gguf", make_model())))
    vocabulary = tokenizer.get_vocab()
    assert [vocabulary[word] for word in WORDS] == list(range(len(WORDS)))
    assert tokenizer("abcd", add_special_tokens=False)["input_ids"] == [WORDS.index("ab"), WORDS.index("cd")]


@needs_gguf
def test_its_name_is_its_bytes(tmp_path: Path) -> None:
    first, again = (write_gguf(tmp_path / f"{name}.gguf", make_model()) for name in ("one", "two"))
    assert model_hash(str(first)) == model_hash(str(again))
    content = bytearray(again.read_bytes())
    content[-1] ^= 1
    again.write_bytes(content)
    assert model_hash(str(first)) != model_hash(str(again))


@needs_gguf
def test_a_file_that_is_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ValueError, match=r"^model: .*model.gguf cannot be loaded: [^\n]*$"):
        load_model(str(tmp_path / "model.gguf"))


@pytest.mark.skipif(HAS_GGUF, reason="the extra gguf is installed")
@pytest.mark.parametrize("load", [load_model, load_tokenizer, model_vocabulary])
def test_without_the_package_it_says_which(tmp_path: Path, load: Any) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"model.gguf cannot be loaded: .*expected the package gguf.*ftmech_hf\[gguf"):
        load(str(tmp_path / "model.gguf"))


def test_files_are_named_by_their_path_or_by_one_name_for_all(tmp_path: Path) -> None:
    for folder in ("base", "tuned"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gguf").touch()
    (tmp_path / "plain").mkdir()
    given = {"base": str(tmp_path / "base"), "finetuned": str(tmp_path / "tuned"), "control": str(tmp_path / "plain")}
    assert named_models(DiagnoseConfig(**given)) == given
    found = named_models(DiagnoseConfig(**given, gguf_file="model.gguf"))
    assert found == {
        "base": str(tmp_path / "base" / "model.gguf"), "finetuned": str(tmp_path / "tuned" / "model.gguf"),
        "control": str(tmp_path / "plain"),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"gguf_file: other.gguf is in no model's folder, expected"):
        DiagnoseConfig(**given, gguf_file="other.gguf")
    with pytest.raises(ValueError, match=r"model: no file .*gone.gguf; expected a GGUF file on this machine"):
        load_model(str(tmp_path / "gone.gguf"))
