"""Let a model attend in another way for a while: a name of transformers' table of attentions, part by part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedModel

from ftmech_hf.models.computation import chosen_tokens


@contextlib.contextmanager
def attending_as(model: PreTrainedModel, name: str) -> Iterator[None]:
    """While open, all parts of a model that take torch's attention take that of another name.

    A part that attends in a way of its own goes on so, as the tower for sounds of a model of texts and sounds. Of a
    model that chooses the tokens it attends to nothing changes: it does so only where its attention has a name that it
    knows, and attends to everything else.
    """
    parts = [each for each in model.modules() if isinstance(each, PreTrainedModel)]
    usual = [
        each.config for each in {id(part.config): part for part in parts}.values()
        if each.config._attn_implementation == "sdpa" and each._can_set_attn_implementation()
    ]  # fmt: skip
    if any(chosen_tokens(each.config) for each in parts):
        usual = []
    for config in usual:
        config._attn_implementation_internal = name  # without "internal" it would be set in a config's parts, too
    try:
        yield
    finally:
        for config in usual:
            config._attn_implementation_internal = "sdpa"
