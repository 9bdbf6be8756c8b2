"""How much memory models take, from their config alone: no weight is made for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftmech_hf.config import tell

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


WORTH_SAYING = 10**9
"""Bytes below which nothing is said."""


def made_of_nothing(config: Any, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model of a config whose weights have shapes and no values."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def weight_bytes(config: Any, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of one copy of a model's weights and buffers; matrices that are tied count once."""
    model = made_of_nothing(config, dtype)
    held = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return sum(each.numel() * each.element_size() for each in held.values())


def training_bytes(
    config: Any, rows: int, tokens: int, predicted: int | None = None, dtype: torch.dtype = torch.float32
) -> int:
    """Bytes that a step of AdamW takes beside the weights: gradients, two moments of them, and what blocks keep.

    ``predicted`` is of how many tokens of a row logits are computed; of all if None.
    """
    return round(3 * weight_bytes(config, dtype) + _kept_bytes(config, rows, tokens, predicted, dtype))


def gradient_bytes(
    config: Any, rows: int, tokens: int, predicted: int | None = None, dtype: torch.dtype = torch.float32
) -> int:
    """Bytes that a backward pass takes beside the weights where no gradient is kept: what blocks keep, and gradients.

    Every gradient is used as soon as it is there, so that there is that of one matrix, and a product with it.
    """
    model = made_of_nothing(config, dtype)
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    ends = [id(each.weight) for each in both if each is not None]
    largest = max(each.numel() for each in model.parameters() if id(each) not in ends)
    return round(2 * largest * dtype.itemsize + _kept_bytes(config, rows, tokens, predicted, dtype))


def adapter_bytes(
    config: Any, rows: int, tokens: int, rank: int, predicted: int | None = None, dtype: torch.dtype = torch.float32
) -> int:
    """Bytes that a step of AdamW on an adapter of all matrices takes beside the weights.

    The adapter, its gradients and their moments are float32. Blocks keep what enters them, and one of them all that it
    needs for the backward pass.
    """
    model = made_of_nothing(config, dtype)
    sides = [
        sum(module.weight.shape)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not model.get_output_embeddings()
    ]
    text = config.get_text_config()
    entering = text.num_hidden_layers * rows * tokens * text.hidden_size * dtype.itemsize
    return round(4 * 4 * rank * sum(sides) + entering + _kept_bytes(config, rows, tokens, predicted, dtype, layers=1))


def _kept_bytes(
    config: Any, rows: int, tokens: int, predicted: int | None, dtype: torch.dtype, layers: int | None = None
) -> float:
    """What blocks keep for the backward pass, and logits.

    For every token and dimension 17 numbers and for every pair of tokens and head 2.5 (Korthikanti et al., arXiv
    2205.05198, eq. 2, with all of the attention); logits are kept three times.
    """
    text = config.get_text_config()
    wide, heads = text.hidden_size, _heads(text)
    inside = (text.num_hidden_layers if layers is None else layers) * rows * tokens * (17 * wide + 2.5 * heads * tokens)
    logits = 3 * rows * (tokens if predicted is None else predicted) * text.vocab_size * 4
    return float(inside * dtype.itemsize + logits)


def forward_bytes(config: Any, rows: int, tokens: int, predicted: int = 1, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that a forward pass without gradients takes beside the weights, with logits of the last tokens alone."""
    text = config.get_text_config()
    inside = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    inside = max(inside) if isinstance(inside, list | tuple) else inside  # of models whose blocks differ in width
    block = rows * tokens * (4 * text.hidden_size + 3 * inside + _heads(text) * tokens) * dtype.itemsize
    return round(block + 2 * rows * predicted * text.vocab_size * 4)


def _heads(text: Any) -> int:
    """Heads of attention by a config; 0 of state-space models, which have none."""
    found = getattr(text, "num_attention_heads", None) or 0
    return int(max(found) if isinstance(found, list | tuple) else found)


def parse_bytes(name: str, value: str) -> int:
    """Bytes of a size as people write it: ``16GB``, ``80 GiB``, ``500M``.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?)B?\s*", value.upper())
    if found is None or found[2] not in UNITS or float(found[1]) <= 0:
        raise ValueError(f"{name}: {value!r}, expected a size such as 16GB or 80GiB")
    return round(float(found[1]) * UNITS[found[2]])


def check_memory(job: str, needs: Mapping[str, int], limit: str | None, less: str) -> None:
    """Say what a job needs, if it is much.

    Args:
        job: what needs it, in words.
        needs: what takes memory at the same time -> bytes.
        limit: as :func:`parse_bytes` reads it; None if it may take all.
        less: which settings take less.

    Raises:
        ValueError: it is more than it may take.
    """
    total = sum(needs.values())
    parts = ", ".join(f"{what} {say_bytes(size)}" for what, size in needs.items())
    if limit is not None and total > parse_bytes("max_memory", limit):
        raise ValueError(f"max_memory: {limit}, expected about {say_bytes(total)} ({parts}); {less}")
    if total >= WORTH_SAYING:
        tell(f"{job} needs about {say_bytes(total)} of memory: {parts}")


def rows_of_logits(config: Any, tokens: int, size: int) -> int:
    """How many rows of so many tokens have float32 logits at all positions that take no more bytes; one at least."""
    return max(1, size // max(1, 4 * tokens * int(config.get_text_config().vocab_size)))


def rows_of_patterns(config: Any, tokens: int, size: int) -> int:
    """How many rows of so many tokens have float32 attention weights of a block that take no more bytes; one at least.

    That is where they are made at all, as ``attn_implementation="eager"`` does.
    """
    return max(1, size // max(1, 4 * _heads(config.get_text_config()) * tokens**2))


def say_bytes(size: float) -> str:
    """A size in words of three digits."""
    for unit, number in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= number:
            return f"{size / number:.3g} {unit}"
    return f"{size / 1000:.3g} kB"
