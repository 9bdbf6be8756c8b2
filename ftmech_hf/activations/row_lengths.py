"""How long a row may be before a model answers to it otherwise because of what else is there: padding, or a cache.

Short trials show whether a model passes over padding and reads its cache rightly, but not what begins only in rows of
thousands of tokens. That is in its config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from ftmech_hf.activations.proofs import text_config
from ftmech_hf.models.computation import chosen_tokens


class Limit(NamedTuple):
    """Up to how many tokens a trial of short rows speaks for longer ones.

    Attributes:
        tokens: of a row, padding among them.
        reason: what a model does to longer rows, as the end of a sentence about it.
    """

    tokens: int
    reason: str


def padding_limit(model: PreTrainedModel) -> Limit | None:
    """The longest padded row that a model answers to as it does to shorter ones; None if nothing in its config limits.

    - Attention may choose the tokens it looks at by an index of its own: blocks begin elsewhere in a padded row, and
      scores that tie, as those below 0 that are set to 0 do, are told apart by their places.
    - Positions may be stretched (longrope) for all rows of a batch as soon as one of them is long.
    - Queries may be scaled by their place in the row, padding counted, from some thousandth on (Llama 4, Inkling).
    """
    return min([*_chosen(model), *_stretched(model), *_scaled(model)], default=None)


def keeping_limit(model: PreTrainedModel) -> Limit | None:
    """The longest text that a model continues from its cache as it does from the whole text; None if nothing limits.

    Where positions are stretched from some length on, those of the keys in the cache are not.
    """
    return min(_stretched(model), default=None)


def _chosen(model: PreTrainedModel) -> Iterator[Limit]:
    for tokens in chosen_tokens(text_config(model)):
        yield Limit(tokens, f"chooses {tokens} tokens to attend to, which may be others where a row is padded")


def _stretched(model: PreTrainedModel) -> Iterator[Limit]:
    config = text_config(model)
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for rope in (given, *given.values()):  # one for all layers, or one for each kind of them
        if isinstance(rope, Mapping) and rope.get("rope_type", rope.get("type")) == "longrope":
            original: Any = rope.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            original = original or getattr(config, "max_position_embeddings", 0)
            yield Limit(int(original), f"has other positions for all rows of a batch if one has more than {original}")


def _scaled(model: PreTrainedModel) -> Iterator[Limit]:
    config = text_config(model)
    steps = [getattr(config, "log_scaling_n_floor", None)]
    if getattr(config, "attn_temperature_tuning", None):
        steps.append(getattr(config, "floor_scale", None))
    for step in steps:
        if step:
            yield Limit(int(step) - 1, f"scales its queries by their place from the {step}th on, padding counted")
