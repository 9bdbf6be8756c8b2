"""Small models of random weights of any causal language model class of transformers, to see what can be done with it.

A class' config has sizes by dozens of names. Those that are known are made small; a few sets of them are tried, and the
first with which the model can be built and run is taken.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ftmech_hf.models.seeding import seeded

WIDTH, NEURONS, LAYERS, HEADS, VOCABULARY, MOST_WEIGHTS = 32, 48, 4, 4, 64, 25_000_000

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_embd": WIDTH, "d_model": WIDTH, "dim": WIDTH,
    "word_embed_proj_dim": WIDTH, "embedding_size": WIDTH, "intermediate_size": NEURONS, "ffn_dim": NEURONS,
    "n_inner": NEURONS, "decoder_ffn_dim": NEURONS, "hidden_dim": NEURONS, "d_ff": NEURONS, "dim_ff": NEURONS,
    "ffn_hidden_size": NEURONS, "shared_intermediate_size": 40, "expert_ffn_hidden_size": 24,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS,
    "decoder_layers": LAYERS, "num_attention_heads": HEADS, "n_head": HEADS, "n_heads": HEADS, "num_heads": HEADS,
    "decoder_attention_heads": HEADS, "attention_heads": HEADS, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "rotary_dim": 4, "sliding_window": 4, "window_size": 4, "is_decoder": True, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "moe_top_k": 2, "top_k_experts": 2,
    "moe_intermediate_size": 24, "n_group": 2, "topk_group": 1, "shared_expert_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 40, "first_k_dense_replace": 1, "num_dense_layers": 1,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "full_attention_interval": 2, "attn_layer_period": 2,
    "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "layer_group_size": 2,
    "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_num_heads": 8,
    "mamba_head_dim": 8, "mamba_expand": 2, "mamba_d_conv": 4, "mamba_dt_rank": 4, "state_size": 8, "expand": 2,
    "n_groups": 1, "ssm_state_size": 8, "chunk_size": 8, "mamba_chunk_size": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "lru_width": WIDTH,
    "attention_window_size": 4, "conv_L_cache": 3, "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64,
    "num_kv_shared_layers": 0, "num_nextn_predict_layers": 0, "zero_expert_num": 2, "index_n_heads": 2,
    "index_head_dim": 8, "index_topk": 4, "num_mem_blocks": 1, "image_size": 8, "patch_size": 4,
    "n_shared_experts": 1, "mamba_d_ssm": 64, "num_decoder_layers": LAYERS, "num_encoder_layers": LAYERS,
    "attn_layer_indices": [1, 3], "audio_vocab_size": VOCABULARY, "num_codebooks": 2, "dff": NEURONS,
}  # fmt: skip
"""Sizes by the names that configs have for them."""

LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
          "num_key_value_heads": HEADS}  # fmt: skip
KINDS = ["linear_attention", "full_attention"] * (LAYERS // 2)
VARIANTS: tuple[Mapping[str, Any], ...] = (
    {"head_dim": 8}, {}, LATENT, {**LATENT, "head_dim": 8}, {**LATENT, "head_dim": 4},
    {"head_dim": 8, "num_heads": 8, "expand": 2},
    {"head_dim": 8, "layer_types": ["full_attention"] * LAYERS},
    {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2)},
    {"head_dim": 8, "layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    {"head_dim": 8, "layer_types": KINDS},
    {"head_dim": 8, "layers_block_type": ["mamba", "attention"] * (LAYERS // 2)},
    {"head_dim": 8, "layers_block_type": ["mamba", "hybrid"] * (LAYERS // 2)},
    {"attention_types": [[["global", "local"], LAYERS // 2]]},
    {"num_key_value_heads": HEADS}, {"num_key_value_heads": HEADS, "head_dim": 8}, {"num_key_value_heads": 1},
    {"head_dim": 8, "hidden_size_per_layer_input": 4}, {"head_dim": 8, "num_experts_per_tok": 1},
    {**LATENT, "num_layers": 2, "moe_topk": 2}, {**LATENT, "head_dim": 8, "sliding_window": None},
)  # fmt: skip
"""Sets of further sizes, of which the first with which a model runs is taken."""
MIXED: dict[str, Mapping[str, Any]] = {
    "granitemoehybrid": {"layer_types": KINDS}, "zamba2": {"layers_block_type": ["mamba", "hybrid"] * (LAYERS // 2)},
}  # fmt: skip
"""Kinds of configs whose layers would be all alike -> what makes them differ, as in such models that are large."""


def causal_classes() -> dict[str, list[str]]:
    """Name of a class of causal language models in transformers -> the kinds of configs that it is built from."""
    found: dict[str, list[str]] = {}
    for kind, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        found.setdefault(name, []).append(kind)
    return {name: sorted(kinds) for name, kinds in sorted(found.items())}


def small_rows(length: int = 7) -> Tensor:
    """Three rows of tokens that every small model knows, none of which is padding."""
    return torch.randint(3, VOCABULARY - 4, (3, length), generator=torch.Generator().manual_seed(1))


def small_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A small model of random weights that runs on rows of tokens, in evaluation mode.

    Args:
        kind: the ``model_type`` of its config.
        seed: of its weights.

    Raises:
        LookupError: there is none; says why the last set of sizes did not do.
    """
    why = "no size of it is known"
    for variant in VARIANTS:
        try:
            return _build(kind, {**SIZES, **variant, **MIXED.get(kind, {})}, seed)
        except Exception as error:  # whatever a config or a model of these sizes is refused with
            kind_of = "" if isinstance(error, _TooLargeError) else f"{type(error).__name__}: "
            said = " ".join(f"{kind_of}{error}".split())[:150]
            why = said if isinstance(error, _TooLargeError) or why == "no size of it is known" else why
    raise LookupError(f"{kind} cannot be built small: {why}")


class _TooLargeError(Exception):
    """A model that none of the known sizes makes small."""


def _build(kind: str, sizes: Mapping[str, Any], seed: int) -> PreTrainedModel:
    config = _small_config(CONFIG_MAPPING[kind], sizes)
    text = config.get_text_config()
    if (layers := getattr(text, "num_hidden_layers", None)) is None or layers > LAYERS:
        raise _TooLargeError(f"{layers} layers" if layers else "its config names no number of layers")
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        size = model_class(config).num_parameters()
    if size > MOST_WEIGHTS:
        raise _TooLargeError(f"{size:,} weights with all known sizes small")
    with seeded(seed):
        try:
            model: PreTrainedModel = model_class._from_config(config, attn_implementation="eager")
        except ValueError:  # has one implementation of its attention only
            model = model_class._from_config(_small_config(CONFIG_MAPPING[kind], sizes))
    with torch.no_grad():
        model.eval()(small_rows(), **({"use_cache": False} if "use_cache" in _names(model.forward) else {}))
    return model


def _names(called: Any) -> set[str]:
    return set(inspect.signature(called).parameters)


def _small_config(kinds: type[PreTrainedConfig], sizes: Mapping[str, Any]) -> PreTrainedConfig:
    """A config whose known sizes are small, and those of the configs in it."""
    names = _names(kinds.__init__) | set(getattr(kinds, "__dataclass_fields__", {}))
    names |= set(getattr(kinds, "attribute_map", {}))
    chosen = {name: value for name, value in sizes.items() if name in names}
    for name, inner in _inner_configs(kinds):
        chosen[name] = _small_config(inner, sizes).to_dict()
    return kinds(**chosen)


def _inner_configs(kinds: type[PreTrainedConfig]) -> Iterator[tuple[str, type[PreTrainedConfig]]]:
    """The configs that a config is made of, by their names: of its text model, its images, its attention."""
    for name, inner in getattr(kinds, "sub_configs", {}).items():
        if isinstance(inner, type) and issubclass(inner, PreTrainedConfig) and hasattr(inner, "model_type"):
            found = CONFIG_MAPPING.get(inner.model_type) if inner.__name__ == "AutoConfig" else inner
            if found is not None:
                yield name, found
