"""Causal attention on a GPU without waiting for it, and without a dense mask where a kernel needs none.

transformers asks the device before every forward pass whether a mask hides anything, or whether places begin anew, and
waits for what it says; once compiled it cannot ask, and gives a dense mask, which takes the fast kernels away. Here
nobody has to ask: rows are filled up on their right, where no token before sees anything, and packed documents are
told from each other by their numbers.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ftmech_hf.models.attending import attending_as
from ftmech_hf.tasks.schema import BOS, SPECIAL_TOKENS
from ftmech_hf.training.objectives.base import Shown

NAME = "ftmech_right_padded"
"""What transformers calls this way of attending."""

BOS_ID = SPECIAL_TOKENS.index(BOS)

try:
    from torch.nn.attention.varlen import varlen_attn  # since torch 2.10

    VARLEN = "window_size" in inspect.signature(varlen_attn).parameters  # and causal this way since 2.11
except ImportError:
    VARLEN = False
"""Whether torch has attention of sequences of unequal lengths."""


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
        if _has_kernel(query, more):
            return _attend_each(query, key, value, attention_mask, more.get("scaling")), None
        attention_mask = _seen(attention_mask, more.get("sliding_window"))
    found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
    return found


def _seen(numbers: Tensor, window: int | None) -> Tensor:
    """What each token sees, bool (B, 1, T, T): tokens of its document up to itself, of the last ``window`` if given."""
    place = torch.arange(numbers.shape[-1], device=numbers.device)
    back = place[:, None] - place
    seen = (numbers.mT == numbers) & (back >= 0)
    return seen if window is None else seen & (back < window)


def _has_kernel(query: Tensor, more: dict[str, Any]) -> bool:
    """Whether there is a kernel for documents of unequal lengths, which needs no mask (B, 1, T, T)."""
    plain = not more.get("dropout") and more.get("sliding_window") is None
    return VARLEN and plain and query.is_cuda and query.dtype == torch.bfloat16 and query.shape[-1] % 8 == 0


def _attend_each(query: Tensor, key: Tensor, value: Tensor, numbers: Tensor, scale: float | None) -> Tensor:
    """Causal attention of each document alone, (B, T, H, D)."""
    rows, heads, length, _ = query.shape
    if key.shape[1] != heads:
        key, value = (each.repeat_interleave(heads // each.shape[1], dim=1) for each in (key, value))
    q, k, v = (each.transpose(1, 2).flatten(0, 1) for each in (query, key, value))
    ends = boundaries(numbers)
    found = varlen_attn(q, k, v, ends, ends, length, length, scale=scale, window_size=(-1, 0))
    assert isinstance(found, Tensor)
    return found.unflatten(0, (rows, length))


def boundaries(numbers: Tensor) -> Tensor:
    """Where documents begin if rows stand one after another, and at last where they end, int32.

    How many there are is not asked, since the device would be waited for: there is room for as many as can be, each of
    which has two tokens, and those that are not there are empty.

    Args:
        numbers: of the documents, (B, 1, 1, T), which count up in each row.
    """
    rows, length = numbers.shape[0], numbers.shape[-1]
    row = torch.arange(rows, device=numbers.device, dtype=torch.int32)
    line = (numbers[:, 0, 0] + row[:, None] * (length + 1)).flatten()
    begins = torch.ones_like(line)
    begins[1:] = line[1:] != line[:-1]
    place = torch.arange(rows * (length // 2 + 1) + 1, device=numbers.device, dtype=torch.int32)
    found = torch.searchsorted(begins.cumsum(0, dtype=torch.int32) - 1, place, out_int32=True)
    found[-1] = rows * length
    return found


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)


@contextlib.contextmanager
def attending_without_waiting(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Let a model attend this way while it is trained on a GPU, in all its parts that take torch's attention otherwise.

    See :func:`ftmech_hf.models.attending.attending_as`.
    """
    with attending_as(model, NAME) if device.type == "cuda" else contextlib.nullcontext():
        yield


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
