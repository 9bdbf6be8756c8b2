"""What a model keeps of a text that it continues, so that it need not read it again for every token."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ftmech_hf.activations.proofs import in_evaluation
from ftmech_hf.activations.row_lengths import keeping_limit
from ftmech_hf.jobs.padding import drawn_rows, hooks_aside, mask_and_positions, passes_over_padding
from ftmech_hf.models.forward import forward_parameters
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.models.seeding import seeded
from ftmech_hf.models.tolerance import logits_apart, tolerance_of

ROWS, TRIED, FILLED = 3, 6, 2
"""Rows that are tried, their tokens, of which the last three come one at a time, and how many of them fill a row."""

_KNOWN: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Model -> whether it answers to what it kept as to the whole text."""


class _RoomyLayer(DynamicLayer):
    """Keys and values with room to grow: transformers' own layer copies all of them for every token."""

    _layer_type = None  # keeps transformers from making it the layer of all caches

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rooms = [key_states[:, :, :0], value_states[:, :, :0]]
        if after > self.rooms[0].shape[-2]:
            self.rooms = [
                torch.cat([room, new.new_empty(*new.shape[:2], after + after // 2 - room.shape[-2], new.shape[-1])], -2)
                for room, new in zip(self.rooms, (key_states, value_states), strict=True)
            ]
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, before:after] = new
        self.keys, self.values = (room[:, :, :after] for room in self.rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self.rooms = [room[indices] for room in self.rooms]
        self.keys, self.values = (room[:, :, :length] for room in self.rooms)


def make_cache(model: PreTrainedModel, length: int) -> Cache | None:
    """An empty cache, roomy where every layer keeps everything; None for a model that has to read all of a text again.

    Whether it answers to what it kept as to the whole text is tried once, with three rows of a few tokens, one of them
    padded where the model passes over padding: some take no cache, some one of their own only, some a cache that they
    do not look at, and some forget the padding.

    Args:
        model: that continues texts.
        length: tokens of the longest text as it will be, padding among them.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _try_keeping(model)
    limit = keeping_limit(model)
    return _new_cache(model) if _KNOWN[model] and (limit is None or length <= limit.tokens) else None


def _new_cache(model: PreTrainedModel) -> Cache:
    cache: Cache = DynamicCache(config=model.config)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        return Cache(layer_class_to_replicate=_RoomyLayer)
    return cache


def keep_rows(cache: Cache, kept: Tensor) -> None:
    """Leave the others out; layers of convolutions and of linear attention know no selecting, but an order of rows."""
    for layer in cache.layers:
        select: Any = getattr(layer, "batch_select_indices", None) or layer.reorder_cache
        select(kept)


def _try_keeping(model: PreTrainedModel) -> bool:
    """Compare what a model answers to rows token by token, one of which leaves, and to the same as a whole."""
    if "past_key_values" not in forward_parameters(model):
        return False
    limit = keeping_limit(model)
    length = min(TRIED, positions_of(model) or TRIED, limit.tokens if limit else TRIED)
    if length < 2:  # nothing follows a text of one token
        return False
    last, kept = min(3, length - 1), torch.tensor([0, 2], device=model.device)
    with in_evaluation(model), hooks_aside(model), seeded(0):
        ids = drawn_rows(model, ROWS, length)
        shown = torch.ones_like(ids)
        if passes_over_padding(model, length):
            shown[0, : min(FILLED, length - last - 1)] = 0
        try:
            cache = _new_cache(model)
            _told(model, ids[:, :-last], shown[:, :-last], slice(None), cache)
            keep_rows(cache, kept)
            ids, shown = ids[kept], shown[kept]
            steps = [
                _told(model, ids[:, :end], shown[:, :end], slice(-1, None), cache)[:, -1]
                for end in range(length - last + 1, length + 1)
            ]
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
            return False  # each says in its own way that it cannot
        whole = _told(model, ids, shown, slice(None), None)[:, -last:]
    return logits_apart(model, whole, torch.stack(steps, 1)) <= tolerance_of(model)


def _told(model: PreTrainedModel, ids: Tensor, shown: Tensor, unread: slice, cache: Cache | None) -> Tensor:
    """Logits after what a model has not yet read of rows, told of padding as when it writes."""
    told = {} if shown.all() else unread_inputs(model, shown, unread)
    kept = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
    logits: Tensor = model(input_ids=ids[:, unread], **kept, **told).logits
    return logits


def unread_inputs(model: PreTrainedModel, shown: Tensor, unread: slice) -> dict[str, Tensor]:
    """What a model is told of padded rows (B, T) of which it has read all but a slice: the whole mask."""
    told = mask_and_positions(model, shown)
    return {name: each[:, unread] if name == "position_ids" else each for name, each in told.items()}
