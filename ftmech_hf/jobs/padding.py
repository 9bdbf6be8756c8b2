"""Rows of several lengths in one batch: a model passes over what fills the shorter ones on their left."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel


def padded_inputs(model: PreTrainedModel, shown: Tensor) -> dict[str, Tensor]:
    """What a model is told of rows with padding (B, T); positions count real tokens only.

    Raises:
        ValueError: the model takes no positions, so that it would answer differently to a row that is padded.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"dataset: its prompts differ in length, and {model.config.model_type} takes no position_ids; "
            "give it prompts of one length"
        )
    mask = shown.long()
    return {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def mask_padding(model: PreTrainedModel, pad: int | None) -> PreTrainedModel:
    """Make a model pass over ``pad`` on the left of its rows whoever calls it; nothing if ``pad`` is None.

    So every instrument takes rows of several lengths.

    Raises:
        ValueError: the model takes no positions; see :func:`padded_inputs`.
    """
    _passing_over(model, pad)
    return model


@contextlib.contextmanager
def padding_masked(model: PreTrainedModel, pad: int | None) -> Iterator[None]:
    """:func:`mask_padding` while the context is open."""
    handle = _passing_over(model, pad)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _passing_over(model: PreTrainedModel, pad: int | None) -> RemovableHandle | None:
    if pad is None:
        return None
    padded_inputs(model, torch.ones(1, 1))

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token_ids = args[0] if args else kwargs.get("input_ids")
        if token_ids is None or kwargs.get("attention_mask") is not None:
            return None
        return args, {**kwargs, **padded_inputs(model, (token_ids != pad).cummax(-1).values)}

    # before what a model puts in front of its rows, which has no token ids
    return model.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
