"""Causal attention on a GPU without waiting for it, and without a dense mask where a kernel needs none.

transformers asks the device before every forward pass whether a mask hides anything, or whether places begin anew, and
waits for what it says; once compiled it cannot ask, and gives a dense mask, which takes the fast kernels away. Here
nobody has to ask: rows are filled up on their right, where no token before sees anything, and packed documents are
told from each other by their numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ftmech_hf.tasks.schema import BOS, SPECIAL_TOKENS
from ftmech_hf.training.objectives.base import Shown

NAME = "ftmech_right_padded"
"""What transformers calls this way of attending."""

BOS_ID = SPECIAL_TOKENS.index(BOS)


def _mask(
    *, q_length: int, kv_length: int, mask_function: Any = causal_mask_function, attention_mask: Any = None, **more: Any
) -> Tensor | None:
    """The mask of one kind of layers; None where it is causal and hides nothing else, which the kernels know."""
    if q_length == kv_length:
        if mask_function is causal_mask_function and more.get("allow_is_causal_skip", True):
            return None
        attention_mask = None  # padding stands on the right, where causal attention does not look
    found: Tensor | None = sdpa_mask(
        q_length=q_length, kv_length=kv_length, mask_function=mask_function, attention_mask=attention_mask, **more
    )
    return found


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """As transformers' SDPA, and of packed documents each alone, by their numbers (B, 1, 1, T)."""
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        attention_mask = _seen(attention_mask, more.get("sliding_window"))
    found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    return found


def _seen(numbers: Tensor, window: int | None) -> Tensor:
    """What each token sees, bool (B, 1, T, T): tokens of its document up to itself, of the last ``window`` if given."""
    place = torch.arange(numbers.shape[-1], device=numbers.device)
    back = place[:, None] - place
    seen = (numbers.mT == numbers) & (back >= 0)
    return seen if window is None else seen & (back < window)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)


@contextlib.contextmanager
def attending_without_waiting(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Let a model attend this way while it is trained on a GPU, if it takes torch's attention otherwise."""
    usual = model.config._attn_implementation
    if device.type != "cuda" or usual != "sdpa":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def shown_without_waiting(model: Any, shown: Shown) -> Shown:
    """What a model is called with, with a mask where transformers would ask the device if it needs one."""
    if getattr(model.config, "_attn_implementation", None) != NAME:
        return shown
    options = {"use_cache": False, **shown.options}
    if "position_ids" in options:  # packed documents
        options["attention_mask"] = (shown.token_ids == BOS_ID).cumsum(1, dtype=torch.int32)[:, None, None]
    else:
        options.setdefault("attention_mask", torch.ones_like(shown.token_ids, dtype=torch.bool))
    return shown._replace(options=options)
