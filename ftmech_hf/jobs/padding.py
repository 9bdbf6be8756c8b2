"""Rows of several lengths in one batch: a model passes over what fills the shorter ones on their left."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ftmech_hf.activations.proofs import (
    in_evaluation,
    run_settings,
    text_config,
)
from ftmech_hf.activations.row_lengths import padding_limit
from ftmech_hf.models.forward import forward_parameters
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.models.seeding import seeded
from ftmech_hf.models.tolerance import logits_apart, tolerance_of
from ftmech_hf.models.vocabulary import num_rows

ROWS, TRIED, FILLED = 4, 8, 4
"""Rows that are tried, their tokens, and how many more fill them."""

_KNOWN: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
"""Model -> why its rows cannot be padded; empty if they can."""


def padded_inputs(model: PreTrainedModel, shown: Tensor) -> dict[str, Tensor]:
    """What a model is told of rows with padding (B, T); positions, if it takes any, count real tokens only.

    Whether it then answers as to a row alone is tried once, with four rows of a few tokens.

    Raises:
        ValueError: the model does not pass over padding, so that it would answer differently to a row that is padded.
    """
    if reason := _why_not(model, shown.shape[-1]):
        raise ValueError(
            f"dataset: its rows differ in length, and {model.config.model_type} {reason}; "
            "give it prompts of one length, and answers of one"
        )
    return mask_and_positions(model, shown)


def passes_over_padding(model: PreTrainedModel, length: int) -> bool:
    """Whether a model answers to rows of up to so many tokens as if nothing filled them on the left; tried once."""
    return not _why_not(model, length)


def mask_and_positions(model: PreTrainedModel, shown: Tensor) -> dict[str, Tensor]:
    """Of rows with padding (B, T), which tokens are real and where each of them stands, as a model's forward takes it.

    Some read no positions off their caller: recurrent ones have none, others count them from the mask.
    """
    mask = shown.long()
    if "position_ids" not in forward_parameters(model):
        return {"attention_mask": mask}
    return {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


def _why_not(model: PreTrainedModel, length: int) -> str:
    """Why rows of so many tokens cannot be padded; empty if they can."""
    if not isinstance(model, PreTrainedModel) or (positions_of(model) or 2) < 2:
        return ""
    if "attention_mask" not in forward_parameters(model):
        return "takes no attention_mask"
    if model not in _KNOWN:
        _KNOWN[model] = _try_padding(model)
    limit = padding_limit(model)
    return limit.reason if limit is not None and length > limit.tokens else _KNOWN[model]


def drawn_rows(model: PreTrainedModel, rows: int, length: int) -> Tensor:
    """Rows of tokens by torch's random numbers, none of them padding, (rows, length)."""
    known, pad = num_rows(model), getattr(text_config(model), "pad_token_id", None)
    ids = torch.randint(known, (rows, length)).to(model.device)
    return ids if pad is None else torch.where(ids == pad, (ids + 1) % known, ids)


def _try_padding(model: PreTrainedModel) -> str:
    """Compare what a model answers to rows alone and to the same rows when they are padded."""
    longest, limit = TRIED + FILLED, padding_limit(model)
    room = min(positions_of(model) or longest, limit.tokens if limit else longest, longest)
    length = max(1, room - FILLED)
    logits = []
    with in_evaluation(model), hooks_aside(model), seeded(0):  # some models draw numbers even then
        ids = drawn_rows(model, ROWS, min(length + FILLED, room))
        for token_ids in (ids[:, -length:], ids):
            shown = torch.ones_like(token_ids)
            shown[:, :-length] = 0
            # rows alone are not told their positions, which some models begin to count elsewhere
            told = {"attention_mask": shown} if token_ids.shape[1] == length else mask_and_positions(model, shown)
            found = model(input_ids=token_ids, **run_settings(model), **told).logits
            logits.append(found[:, -length:].float())
    if not logits_apart(model, *logits) <= tolerance_of(model):  # nan is no agreement
        return "answers otherwise to a row that is padded on the left"
    return ""


@contextlib.contextmanager
def hooks_aside(model: nn.Module) -> Iterator[None]:
    """Without the hooks of those who read and write in a model, for whom no forward pass is meant; torch's own stay."""
    taken: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            if hooks:
                taken.append((hooks, dict(hooks)))
    try:
        for hooks, own in taken:
            for number, hook in own.items():
                if not str(getattr(hook, "__module__", "")).startswith("torch."):  # as of sharded or normed weights
                    del hooks[number]
        yield
    finally:
        for hooks, own in taken:
            hooks.clear()
            hooks.update(own)


def mask_padding(model: PreTrainedModel, pad: int | None) -> PreTrainedModel:
    """Make a model pass over ``pad`` on the left of its rows whoever calls it; nothing if ``pad`` is None.

    So every instrument takes rows of several lengths.

    Raises:
        ValueError: the model cannot; see :func:`padded_inputs`.
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
        read: Any = kwargs.get("past_key_values")
        continues = read is not None and read.get_seq_length() > 0  # its one token is no row
        if token_ids is None or kwargs.get("attention_mask") is not None or continues:
            return None
        return args, {**kwargs, **padded_inputs(model, (token_ids != pad).cummax(-1).values)}

    # before what a model puts in front of its rows, which has no token ids
    return model.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
