"""What transformers would drop of a GGUF file is refused, and files of usual models are not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ftmech_hf.models.loading import load_model
from ftmech_hf.models.vocabulary import has_tied_embeddings
from tests.models.test_gguf import WORDS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the extra gguf is not installed")

HEAD = np.ones((len(WORDS), 32), dtype=np.float32)
Write = Callable[[Any], None]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NAMED = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}


def write_gguf(path: Path, kind: str, write: Write, **settings: Any) -> str:
    """A file of random weights, with the metadata that llama.cpp's converters write for every model, and more."""
    import gguf
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **settings}))
    config, architecture = model.config, NAMED.get(kind, kind)
    writer = gguf.GGUFWriter(path, architecture)
    for add, value in {
        writer.add_context_length: 64, writer.add_embedding_length: 32, writer.add_block_count: 2,
        writer.add_feed_forward_length: 64, writer.add_head_count: 4, writer.add_vocab_size: len(WORDS),
        writer.add_tokenizer_model: "gpt2", writer.add_token_list: WORDS, writer.add_token_merges: ["a b", "c d"],
        writer.add_token_types: [3] * 4 + [1] * (len(WORDS) - 4), writer.add_bos_token_id: 1,
        writer.add_eos_token_id: 2, writer.add_pad_token_id: 0,
    }.items():  # fmt: skip
        add(value)
    if kind in ("gpt2", "starcoder2", "stablelm", "falcon"):
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if kind != "gpt2":
        writer.add_head_count_kv(2)
        write(writer)
        if not any("rope.freq_base" in key for part in writer.kv_data for key in part):
            writer.add_rope_freq_base(1e6 if kind == "gemma3_text" else 1e4)
    else:
        write(writer)
    # the names by which transformers finds its parameters, of which those of experts come without their end
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    weights, written = model.state_dict(), {}
    for name, key in get_gguf_hf_weights_map(model, processor).items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = weights[key].numpy() if key in weights else None
        if value is None or ("_exps" in name and "down" not in name):
            value = weights[key][:, : weights[key].shape[1] // 2].numpy()
        value = value[0] if "gate_inp_shexp" in name else value
        is_turned = kind == "gpt2" and value.ndim == 2 and name.startswith("blk")
        written[name if "." in name.rsplit("_", 1)[-1] else f"{name}.weight"] = value.T if is_turned else value
    for name, value in written.items():
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def of_width(writer: Any) -> None:
    writer.add_rope_dimension_count(8)


def wide(writer: Any) -> None:
    """As Gemma's heads are, of which the width is not that of the stream by their number."""
    writer.add_key_length(256)
    writer.add_value_length(256)


def gemma2(writer: Any) -> None:
    wide(writer)
    writer.add_sliding_window(4096)
    writer.add_attn_logit_softcapping(50.0)
    writer.add_final_logit_softcapping(30.0)


def experts(writer: Any) -> None:
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)
    writer.add_expert_weights_norm(False)


def unscaled(writer: Any) -> None:
    import gguf

    of_width(writer)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_rope_scaling_factor(1.0)
    writer.add_rope_scaling_orig_ctx_len(64)
    writer.add_sliding_window(64)  # no row is longer
    writer.add_expert_weights_scale(1.0)
    writer.add_logit_scale(1.0)
    writer.add_tensor("rope_freqs.weight", np.ones(4, dtype=np.float32))
    writer.add_tensor("blk.0.attn_q.bias", np.zeros(32, dtype=np.float32))
    writer.add_tensor("blk.0.attn_rot_embd.weight", np.full(4, 0.5, dtype=np.float32))


@pytest.mark.parametrize(
    ("kind", "write", "settings"),
    [
        ("llama", of_width, {}), ("llama", unscaled, {}), ("qwen2", lambda _: None, {}), ("gpt2", lambda _: None, {}),
        ("qwen3", lambda w: w.add_rope_dimension_count(128), {"head_dim": 128}),
        ("gemma2", gemma2, {"head_dim": 256, "tie_word_embeddings": True}),
        ("gemma3_text", wide, {"head_dim": 256, "tie_word_embeddings": True}), ("starcoder2", lambda _: None, {}),
        ("phi3", of_width, {}), ("stablelm", lambda writer: writer.add_rope_dimension_count(2), {}),
        ("qwen2", lambda _: None, {"tie_word_embeddings": True}), ("falcon", lambda _: None, {"num_kv_heads": 1}),
        ("falcon", lambda w: w.add_tensor("output.weight", HEAD), {"num_kv_heads": 1}),
        ("qwen2_moe", experts, {"num_experts": 4, "num_experts_per_tok": 2}),
    ],
)  # fmt: skip
def test_usual_files_are_read(kind: str, write: Write, settings: dict[str, Any], tmp_path: Path) -> None:
    if kind == "gpt2":
        settings = {"max_position_embeddings": 1024}
    model = load_model(write_gguf(tmp_path / "model.gguf", kind, write, **settings))
    if kind == "falcon":  # which transformers ties in every file, but not where the two differ
        assert np.array_equal(model.lm_head.weight.detach(), HEAD) != has_tied_embeddings(model)


def scaled(kind: str, factor: float) -> Write:
    def write(writer: Any) -> None:
        import gguf

        of_width(writer)
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(factor)

    return write


def with_tensor(name: str, shape: tuple[int, ...], value: float = 2.0) -> Write:
    return lambda writer: writer.add_tensor(name, np.full(shape, value, dtype=np.float32))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (with_tensor("rope_freqs.weight", (4,)), r"rope_freqs.weight has no place in the model"),
        (with_tensor("rope_factors_long.weight", (4,)), r"rope_factors_long.weight has no place in the model"),
        (with_tensor("rope_factors_short.weight", (4,), 0.0), r"rope_factors_short.weight has no place in the model"),
        (with_tensor("blk.0.attn_q.bias", (32,)), r"blk.0.attn_q.bias has no place in the model"),
        (with_tensor("blk.0.attn_q.bias", (32,), 1.0), r"blk.0.attn_q.bias has no place in the model"),
        (with_tensor("blk.1.attn_q_norm.weight", (8,), 1.0), r"blk.1.attn_q_norm.weight has no place"),
        (scaled("linear", 4.0), r"llama.rope.scaling.type is linear by 4, and the config's rope_type default"),
        (scaled("yarn", 1.0), r"llama.rope.scaling.type is yarn by 1, and the config's rope_type default"),
        (lambda w: w.add_rope_scaling_factor(2.0), r"rope.scaling.type is linear by 2"),
        (lambda w: w.add_rope_scaling_attn_factors(1.19), r"rope.scaling.attn_factor is 1.19, and the config has"),
        (lambda w: w.add_sliding_window(16), r"llama.attention.sliding_window is 16, and the config has none"),
        (lambda w: w.add_logit_scale(0.25), r"llama.logit_scale is 0.25, and the config has none"),
        (lambda w: w.add_attn_logit_softcapping(50.0), r"llama.attn_logit_softcapping is 50"),
        (lambda w: w.add_final_logit_softcapping(30.0), r"llama.final_logit_softcapping is 30"),
        (lambda w: w.add_residual_scale(0.22), r"llama.residual_scale is 0.22"),
        (lambda w: w.add_embedding_scale(12.0), r"llama.embedding_scale is 12"),
        (lambda w: w.add_attention_scale(0.5), r"llama.attention.scale is 0.5, and in the config query_pre_attn_sc"),
        (lambda w: w.add_expert_weights_scale(2.5), r"llama.expert_weights_scale is 2.5"),
        (lambda w: w.add_causal_attention(False), r"llama.attention.causal is False"),
        (lambda w: w.add_clamp_kqv(8.0), r"llama.attention.clamp_kqv is 8"),
        (
            lambda w: w.add_layer_norm_eps(1e-3),
            r"layer_norm_epsilon is 0.001, and in the config rms_norm_eps is 1e-06;",
        ),
    ],
)
def test_what_changes_the_computation_and_is_dropped_is_refused_by_name(
    write: Write, said: str, tmp_path: Path
) -> None:
    name = write_gguf(tmp_path / "model.gguf", "llama", write)
    with pytest.raises(
        ValueError, match=rf"^model: transformers does not take over all of [^\n]*: [^\n]*{said}[^\n]*$"
    ):
        load_model(name)


@pytest.mark.parametrize(
    ("kind", "write", "settings", "said"),
    [
        ("qwen2", lambda w: w.add_rope_dimension_count(4), {}, "qwen2.rope.dimension_count is 4, and .* turn 8"),
        ("starcoder2", lambda w: w.add_rope_freq_base(1e5), {}, "starcoder2.rope.freq_base is 100000, and in the co"),
        ("gemma2", wide, {"head_dim": 64}, "gemma2.attention.scale is not there, and the config's .* is 256, not 64"),
        ("gemma3_text", lambda w: (wide(w), scaled("linear", 8.0)(w)), {"head_dim": 256}, "scaling.type is linear by"),
    ],
)  # fmt: skip
def test_so_are_keys_that_other_architectures_have_no_names_for(
    kind: str, write: Write, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    if settings.get("head_dim") == 64:
        write = lambda writer: (writer.add_key_length(64), writer.add_value_length(64))  # noqa: E731
    name = write_gguf(tmp_path / "model.gguf", kind, write, **settings)
    with pytest.raises(ValueError, match=said):
        load_model(name)
