"""Tiny models of many architectures, with what their authors' code says about their parts, written down by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

VOCABULARY, WIDTH, HEADS, LAYERS, NEURONS = 40, 32, 4, 3, 48


class Architecture(NamedTuple):
    """One architecture; paths are from a block.

    Attributes:
        kind: its ``model_type``.
        settings: of its config.
        heads: the attention's last matrix; empty if heads cannot be read.
        neurons: the MLP's last matrix; empty if there is not one.
        sum_at: what reads the stream behind attention and before the MLP; empty if nothing does, because the two lie
            beside each other.
        blocks: the list of blocks, if it is not ``model.layers``.
        experts: what holds the routed experts; empty if there are none.
        shared: the last matrix of the expert that every token passes; empty if there is none.
        dense: how many of the first blocks have an MLP in place of experts.
    """

    kind: str
    settings: dict[str, Any]
    heads: str
    neurons: str
    sum_at: str
    blocks: str = "model.layers"
    experts: str = ""
    shared: str = ""
    dense: int = 0


_TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT: dict[str, Any] = {
    **_TOKENS, "n_embd": WIDTH, "n_head": HEADS, "n_layer": LAYERS, "n_inner": NEURONS, "n_positions": 32,
}  # fmt: skip
_FULL: dict[str, Any] = {
    **_TOKENS, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
    "intermediate_size": NEURONS, "max_position_embeddings": 32,
}  # fmt: skip
_LLAMA = {**_FULL, "num_key_value_heads": 2}
_EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}  # fmt: skip
_OPT = {**_TOKENS, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "ffn_dim": NEURONS,
        "max_position_embeddings": 32}  # fmt: skip
_FALCON = {**_TOKENS, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
           "ffn_hidden_size": NEURONS, "alibi": False}  # fmt: skip
_BERT = {**_FULL, "is_decoder": True, "type_vocab_size": 2}
_LATENT = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "num_key_value_heads": HEADS,
}  # fmt: skip
_DOWN, _OUT, _BEHIND = "mlp.down_proj", "self_attn.o_proj", "post_attention_layernorm"
_4H = "mlp.dense_4h_to_h"

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture("gpt2", _GPT, "attn.c_proj", "mlp.c_proj", "ln_2", "transformer.h"),
    "llama": Architecture("llama", _LLAMA, _OUT, _DOWN, _BEHIND),
    "qwen2": Architecture("qwen2", _LLAMA, _OUT, _DOWN, _BEHIND),
    "qwen3": Architecture("qwen3", {**_LLAMA, "head_dim": 16}, _OUT, _DOWN, _BEHIND),
    "phi": Architecture("phi", {**_FULL, "partial_rotary_factor": 0.5}, "self_attn.dense", "mlp.fc2", ""),
    "phi3": Architecture("phi3", {**_LLAMA, "sliding_window": 4}, _OUT, _DOWN, _BEHIND),
    "gemma2": Architecture(
        "gemma2", {**_LLAMA, "head_dim": 16, "sliding_window": 4}, _OUT, _DOWN, "pre_feedforward_layernorm"
    ),
    "gemma3": Architecture(
        "gemma3_text",
        {**_LLAMA, "head_dim": 16, "sliding_window": 4,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        _OUT, _DOWN, "pre_feedforward_layernorm",
    ),
    "olmo2": Architecture("olmo2", _LLAMA, _OUT, _DOWN, "mlp"),
    "glm4": Architecture("glm4", {**_LLAMA, "head_dim": 16}, _OUT, _DOWN, _BEHIND),
    "granite": Architecture(
        "granite", {**_LLAMA, "residual_multiplier": 0.22, "embedding_multiplier": 12.0}, _OUT, _DOWN, _BEHIND
    ),
    "cohere": Architecture("cohere", _LLAMA, _OUT, _DOWN, ""),
    "bloom": Architecture(
        "bloom", {**_TOKENS, "hidden_size": WIDTH, "n_head": HEADS, "n_layer": LAYERS},
        "self_attention.dense", _4H, _BEHIND, "transformer.h",
    ),
    "mpt": Architecture(
        "mpt", {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "expansion_ratio": 2,
                "max_seq_len": 32},
        "attn.out_proj", "ffn.down_proj", "norm_2", "transformer.blocks",
    ),
    "opt": Architecture(
        "opt", {**_OPT, "word_embed_proj_dim": WIDTH}, "self_attn.out_proj", "fc2", "final_layer_norm",
        "model.decoder.layers",
    ),
    "opt with norms behind": Architecture(
        "opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
        "self_attn.out_proj", "fc2", "self_attn_layer_norm", "model.decoder.layers",
    ),
    "falcon 7b": Architecture(
        "falcon", {**_FALCON, "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False},
        "self_attention.dense", _4H, "", "transformer.h",
    ),
    "falcon 40b": Architecture(
        "falcon", {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
        "self_attention.dense", _4H, "", "transformer.h",
    ),
    "falcon rw": Architecture(
        "falcon", {**_FALCON, "multi_query": False, "parallel_attn": False, "new_decoder_architecture": False,
                   "alibi": True, "bias": True},
        "self_attention.dense", _4H, _BEHIND, "transformer.h",
    ),
    "gpt_neox": Architecture("gpt_neox", _FULL, "attention.dense", _4H, "", "gpt_neox.layers"),
    "gpt_neox in a row": Architecture(
        "gpt_neox", {**_FULL, "use_parallel_residual": False}, "attention.dense", _4H, _BEHIND, "gpt_neox.layers"
    ),
    "gpt_neo": Architecture(
        "gpt_neo", {**_TOKENS, "hidden_size": WIDTH, "num_heads": HEADS, "num_layers": LAYERS,
                    "intermediate_size": NEURONS, "attention_types": [[["global", "local", "global"], 1]],
                    "window_size": 4, "max_position_embeddings": 32},
        "attn.attention.out_proj", "mlp.c_proj", "ln_2", "transformer.h",
    ),
    "gpt_bigcode": Architecture(
        "gpt_bigcode", {**_GPT, "multi_query": True}, "attn.c_proj", "mlp.c_proj", "ln_2", "transformer.h"
    ),
    "gptj": Architecture("gptj", {**_GPT, "rotary_dim": 4}, "attn.out_proj", "mlp.fc_out", "", "transformer.h"),
    "codegen": Architecture("codegen", {**_GPT, "rotary_dim": 4}, "attn.out_proj", "mlp.fc_out", "", "transformer.h"),
    "openai-gpt": Architecture("openai-gpt", _GPT, "attn.c_proj", "mlp.c_proj", "ln_1", "transformer.h"),
    "bert": Architecture(
        "bert", _BERT, "attention.output.dense", "output.dense", "attention.output.LayerNorm", "bert.encoder.layer"
    ),
    "qwen2_moe": Architecture(
        "qwen2_moe", {**_LLAMA, **_EXPERTS}, _OUT, "", _BEHIND,
        experts="mlp.experts", shared="mlp.shared_expert.down_proj",
    ),
    "qwen3_moe": Architecture(
        "qwen3_moe", {**_LLAMA, **_EXPERTS, "head_dim": 16}, _OUT, "", _BEHIND, experts="mlp.experts"
    ),
    "mixtral": Architecture("mixtral", {**_LLAMA, **_EXPERTS}, _OUT, "", _BEHIND, experts="mlp.experts"),
    "olmoe": Architecture("olmoe", {**_LLAMA, **_EXPERTS}, _OUT, "", _BEHIND, experts="mlp.experts"),
    "gpt_oss": Architecture(
        "gpt_oss", {**_LLAMA, **_EXPERTS, "head_dim": 16, "sliding_window": 4}, _OUT, "", _BEHIND,
        experts="mlp.experts",
    ),
    "granitemoe": Architecture(
        "granitemoe", {**_LLAMA, **_EXPERTS}, _OUT, "", _BEHIND,
        experts="block_sparse_moe.experts",
    ),
    "deepseek_v3": Architecture(
        "deepseek_v3",
        {**_FULL, **_EXPERTS, **_LATENT, "n_routed_experts": 8, "n_group": 2, "topk_group": 1,
         "first_k_dense_replace": 1},
        _OUT, "", _BEHIND, experts="mlp.experts", shared="mlp.shared_experts.down_proj", dense=1,
    ),
}  # fmt: skip
"""Name -> an architecture whose blocks differ from the others'."""


def make(name: str, *, attn: str = "eager", seed: int = 0) -> PreTrainedModel:
    """A model of an architecture, with weights so large that every part matters, and norms that are not all one."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[architecture.kind](**architecture.settings)
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attn)
    except ValueError:  # has one implementation only
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture.kind](**architecture.settings))
    return shaken(model)


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """A model with noise on all its weights."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight) / (weight.shape[-1] ** 0.5 if weight.ndim > 1 else 1))
    return model.eval()
