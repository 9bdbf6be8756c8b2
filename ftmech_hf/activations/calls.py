"""Calling a model's blocks as the model called them, or with less to compute."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ftmech_hf.activations.interventions import on_input
from ftmech_hf.activations.layout import model_blocks
from ftmech_hf.activations.proofs import first_tensor, run_settings, with_first
from ftmech_hf.activations.replacement import forward_replaced
from ftmech_hf.models.attending import attending_as

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""What a block is called with beside the stream."""


def answer_position(model: PreTrainedModel) -> int | None:
    """Where a model answers whose config says so, as that of compiled programs does; None for the last position."""
    found = getattr(model.config, "answer_position", None)
    return None if found is None else int(found)


def predicting_position(model: PreTrainedModel) -> int:
    """The position of a prompt that predicts its answer: the last one, or where :func:`answer_position` says."""
    found = answer_position(model)
    return -1 if found is None else found


def split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Given]:
    """The stream that a block is called with, and the rest."""
    kwargs = dict(kwargs)
    stream: Tensor = args[0] if args else kwargs.pop("hidden_states")
    return stream, (args[1:], kwargs)


def leading_sizes(given: Given) -> list[int]:
    """Of every tensor that a block is called with, the size of its first axis; 0 if it has none."""
    sizes: list[int] = []

    def measure(value: Tensor) -> Tensor:
        sizes.append(len(value) if value.ndim else 0)
        return value

    recursively_apply(measure, given)
    return sizes


@contextlib.contextmanager
def replaced(block: nn.Module, stream: Tensor | None, returned: Any) -> Iterator[None]:
    """A block that gives a stream, or what it was given, in the place where a block returns it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return with_first(returned, stream if stream is not None else split_call(args, kwargs)[0])

    with forward_replaced(block, forward):
        yield


@torch.no_grad()
def last_streams(model: PreTrainedModel, token_ids: Tensor) -> tuple[list[Tensor], list[Any], Tensor]:
    """The stream behind every block where rows (B, T) are answered, at their last position, in one forward pass.

    A model that answers elsewhere is read there; see :func:`answer_position`.

    Returns:
        (B, D) of every block; what each block returned, cut to that position; and the logits there, (B, V).
    """
    streams: list[Tensor] = []
    returned: list[Any] = []
    at = predicting_position(model)

    def keep(block: nn.Module, args: Any, output: Any) -> None:
        first = first_tensor(output)
        assert first is not None
        streams.append(first[:, at].clone())  # blocks may add to it in place
        returned.append(with_first(output, streams[-1][:, None]))

    with contextlib.ExitStack() as stack:
        for _, block in model_blocks(model):
            stack.callback(block.register_forward_hook(keep).remove)
        logits: Tensor = model(token_ids.to(model.device), **run_settings(model, logits_to_keep=1)).logits
    return streams, returned, logits[:, -1].float()


LAST_QUERY = "ftmech_last_query"


@contextlib.contextmanager
def last_query(model: PreTrainedModel) -> Iterator[None]:
    """Attention of the last position alone, whose output stands at every position.

    Where a model does not ask transformers' table for its attention, nothing changes.
    """
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def from_last(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, Any]:
        mask = attention_mask if attention_mask is None else attention_mask[..., -1:, :]
        output, weights = attend(module, query[:, :, -1:], key, value, mask, **{**options, "is_causal": False})
        return output.expand(-1, query.shape[2], -1, -1), weights

    ALL_ATTENTION_FUNCTIONS[LAST_QUERY] = from_last
    try:
        with attending_as(model, LAST_QUERY):
            yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[LAST_QUERY]


@contextlib.contextmanager
def adding_at(first: nn.Module, reader: nn.Module, whole: Callable[[], Tensor], at: slice) -> Iterator[None]:
    """While open, a block that is given some positions of the stream adds to them what attention makes of all.

    Args:
        first: the part that it calls first, which is given the whole stream.
        reader: its attention's last matrix, which is given the positions alone.
        whole: gives the whole stream.
        at: the positions.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(on_input(first, lambda _: whole()).remove)
        stack.callback(on_input(reader, lambda value: value[:, at]).remove)
        yield
