"""Whether two models of one architecture compute the same with their weights, so that one may be given the other's.

Weights of one shape say it only in part: the base of rotary positions, an activation function or a norm's epsilon stand
in the config alone, and a longer context is often tuned by changing them. What such models do may be compared, and how
far their weights moved; but weights between the two belong to neither config.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

NO_MATTER = re.compile(
    r"vocab_size.*|.*_token_ids?|.*_token_index|.*dtype|tie_.*|use_cache|cache_implementation|.*drop.*|.*initializer.*|"
    r"init_.*|output_(?:attentions|hidden_states|router_logits|scores|past)|return_dict|problem_type|id2label|label2id|num_labels|summary_.*|pretraining_tp|architectures|"
    r"transformers_version|.*name_or_path|.*attn_implementation|.*(?:aux|z)_loss.*|.*jitter.*|.*kernels?|"
    r"chunk_size_feed_forward|extra_.*files|.*_plan|base_config_key|sub_configs_defaults|attribute_map|_auto_class|"
    r"gradient_checkpointing|quantization_config|max_window_layers|use_sliding_window|_sliding_window_pattern|"
    r"reorder_and_upcast_attn|n_ctx|seq_length|program|residual_names"
)
"""Settings that change nothing of what weights compute when a model is used, or that stand in another one as well."""

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""How long a row may be; learned positions are compared by their shapes."""

BY_LENGTH = ("dynamic", "yarn", "longrope", "su")
"""Kinds of rotary positions that depend on how long a row may be."""


CHOSEN: Mapping[str, str | None] = {
    "index_topk": None, "indexer_budget": None, "index_topk_blocks": "index_block_size",
    "sparse_topk_blocks": "sparse_block_size",
}  # fmt: skip
"""Setting of a config that says how many tokens attention chooses, or how many blocks -> that of a block's tokens."""


def chosen_tokens(config: PreTrainedConfig) -> list[int]:
    """How many tokens attention chooses by an index of its own, by each of a config's settings that say so."""
    found = []
    for name, size in CHOSEN.items():
        each = getattr(config, name, None)
        if isinstance(each, int) and each > 0:
            found.append(each * (1 if size is None else getattr(config, size, None) or 1))
    return found


def differing_setting(first: PreTrainedModel, second: PreTrainedModel) -> tuple[str, Any, Any] | None:
    """The first setting by which two models compute otherwise with the same weights: (name, of each); None if none is.

    Left out is what only training, the vocabulary, memory or speed depend on. Sizes are compared too, where both say
    them.
    """
    return _difference(first.config, second.config, "")


def check_same_computation(role: str, first: PreTrainedModel, second: PreTrainedModel) -> None:
    """Make sure that weights of one model can stand in the other.

    Args:
        role: what errors call the second.
        first, second: of one architecture.

    Raises:
        ValueError: their configs differ in what they compute, with the first such setting.
    """
    if found := differing_setting(first, second):
        name, expected, other = found
        raise ValueError(
            f"{role}: {name} is {other!r} in one config, expected {expected!r} as in the other; "
            "weights between two models that compute differently belong to neither"
        )


def _difference(first: Any, second: Any, inside: str) -> tuple[str, Any, Any] | None:
    if type(first) is not type(second):
        return f"{inside}model_type", first.model_type, second.model_type
    ones, others = _settings(first), _settings(second)
    for name in sorted(ones.keys() | others.keys()):
        one, other = ones.get(name), others.get(name)
        if isinstance(one, PreTrainedConfig) and isinstance(other, PreTrainedConfig):
            if (found := _difference(one, other, f"{inside}{name}.")) is not None:
                return found
        elif one != other:
            return f"{inside}{name}", one, other
    return None


def _settings(config: Any) -> dict[str, Any]:
    """What a config says of how its model computes, by the names that its class knows."""
    known = set(inspect.signature(type(config).__init__).parameters) | set(
        getattr(type(config), "__dataclass_fields__", {})
    )
    found = {name: _plain(value) for name, value in vars(config).items() if name in known}
    found = {name: value for name, value in found.items() if not NO_MATTER.fullmatch(name)}
    rope = found.get("rope_parameters")
    if isinstance(rope, dict):
        found["rope_parameters"] = rope = _rotation(rope)
    if not _depends_on_length(rope):
        for name in POSITIONS:
            found.pop(name, None)
    kinds = found.get("layer_types")
    if kinds and not any("sliding" in str(kind) for kind in kinds):
        found.pop("sliding_window", None)
    if found.get("n_inner", 0) is None and found.get("n_embd"):
        found["n_inner"] = 4 * found["n_embd"]
    if found.get("head_dim", 0) is None and found.get("num_attention_heads"):
        found["head_dim"] = found.get("hidden_size", 0) // found["num_attention_heads"]
    return found


def _rotation(rope: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions, for one or each kind of layers, without what changes nothing."""
    if rope.get("rope_type") == "linear" and rope.get("factor") == 1:
        rope = {**{name: each for name, each in rope.items() if name != "factor"}, "rope_type": "default"}
    return {
        name: _rotation(each) if isinstance(each, dict) else each
        for name, each in rope.items() if (name, each) != ("partial_rotary_factor", 1)
    }  # fmt: skip


def _depends_on_length(rope: Any) -> bool:
    if not isinstance(rope, dict):
        return False
    kind = rope.get("rope_type")
    own = kind in BY_LENGTH and not (kind == "yarn" and rope.get("factor"))  # which says by how much
    return own or any(_depends_on_length(each) for each in rope.values())


def _plain(value: Any) -> Any:
    """A value as a file would give it back, of which some keep 32 bits; what is None in a mapping is not there."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items() if each is not None}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
