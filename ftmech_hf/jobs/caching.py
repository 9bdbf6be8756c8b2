"""What a model keeps of a text that it continues, so that it need not read it again for every token."""

from __future__ import annotations

import inspect
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ftmech_hf.activations.proofs import in_evaluation, tolerance_of
from ftmech_hf.jobs.padding import drawn_rows, hooks_aside
from ftmech_hf.models.configs import config_positions
from ftmech_hf.models.seeding import seeded

ROWS, TRIED = 3, 6
"""Rows that are tried, and their tokens, of which the last three come one at a time."""

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


def make_cache(model: PreTrainedModel) -> Cache | None:
    """An empty cache, roomy where every layer keeps everything; None for a model that has to read all of a text again.

    Whether it answers to what it kept as to the whole text is tried once, with three rows of a few tokens: some take no
    cache, some one of their own only, and some a cache that they do not look at.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _try_keeping(model)
    return _new_cache(model) if _KNOWN[model] else None


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
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    length = min(TRIED, config_positions(model.config) or TRIED)
    if length < 2:  # nothing follows a text of one token
        return False
    last, kept = min(3, length - 1), torch.tensor([0, 2], device=model.device)
    with in_evaluation(model), hooks_aside(model), seeded(0):
        ids = drawn_rows(model, ROWS, length)
        try:
            cache = _new_cache(model)
            model(input_ids=ids[:, :-last], use_cache=True, past_key_values=cache)
            keep_rows(cache, kept)
            ids = ids[kept]
            steps = [
                model(input_ids=ids[:, place : place + 1], use_cache=True, past_key_values=cache).logits[:, -1]
                for place in range(length - last, length)
            ]
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
            return False  # each says in its own way that it cannot
        whole = model(input_ids=ids, use_cache=False).logits[:, -last:].float()
    return bool((torch.stack(steps, 1).float() - whole).norm() <= tolerance_of(model) * whole.norm())
