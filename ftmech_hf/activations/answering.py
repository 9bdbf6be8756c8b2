"""A last block that computes where a model answers, and nowhere else.

What the last block adds to the stream elsewhere is read by nobody if the answer is predicted at the last position. Its
attention needs the keys and values of all positions there, and all else of it the last one alone: of a model of three
blocks that saves a quarter of the work. The shortcut is tried on the model at hand, and not taken where it changes its
logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.activations.agreement import same_logits
from ftmech_hf.activations.calls import adding_at, answer_position, last_query, split_call
from ftmech_hf.activations.layout import find_layout, model_blocks
from ftmech_hf.activations.proofs import first_tensor, run_settings, with_first


class _Parts(NamedTuple):
    """Of a block: the part that it calls first (in most models a norm), and its attention's last matrix."""

    first: str
    reader: str


_KNOWN: dict[str, _Parts | None] = {}
"""Architecture, with its settings -> parts of its last block; None where they could not be shown."""


@contextlib.contextmanager
def answers_alone(model: PreTrainedModel, token_ids: Tensor) -> Iterator[None]:
    """While open, a model's last block computes at the last position alone, if that gives the same logits there.

    The logits of other positions are then worth nothing. With dropout nothing changes: it would draw other numbers.

    Args:
        model: any causal LM.
        token_ids: a few rows of what it will be asked, (B, T), on which the shortcut is tried.
    """
    token_ids = token_ids.to(model.device)
    parts = None if answer_position(model) is not None else _find_parts(model, token_ids)
    if parts is None or not _agrees(model, parts, token_ids):
        yield
        return
    with _trimmed(model, parts):
        yield


def _find_parts(model: PreTrainedModel, token_ids: Tensor) -> _Parts | None:
    key = type(model).__name__ + model.config.to_json_string(use_diff=False)
    if key not in _KNOWN:
        reader, last = find_layout(model).layers[-1].attention_out, model_blocks(model)[-1][1]
        called: list[str] = []
        with contextlib.ExitStack() as stack, torch.no_grad():
            for name, part in last.named_children():
                keep = part.register_forward_pre_hook(lambda *_, name=name: called.append(name))
                stack.callback(keep.remove)
            model(token_ids[:1], **run_settings(model))
        _KNOWN[key] = _Parts(called[0], reader) if reader and called else None
    return _KNOWN[key]


def _agrees(model: PreTrainedModel, parts: _Parts, token_ids: Tensor) -> bool:
    """Whether the shortcut gives a model's logits, in evaluation and in training; one that fails to run does not."""
    modes = {module: module.training for module in model.modules()}
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            return all(_gives_logits(model.train(training), parts, token_ids) for training in (False, True))
    finally:
        for module, training in modes.items():
            module.training = training


def _gives_logits(model: PreTrainedModel, parts: _Parts, token_ids: Tensor) -> bool:
    def logits() -> Tensor:
        torch.manual_seed(0)
        found: Tensor = model(token_ids, **run_settings(model, logits_to_keep=1)).logits
        return found[:, -1].float()

    expected = logits()
    try:
        with _trimmed(model, parts):
            found = logits()
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return False
    return same_logits(model, found, expected)


@contextlib.contextmanager
def _trimmed(model: PreTrainedModel, parts: _Parts) -> Iterator[None]:
    last = model_blocks(model)[-1][1]
    entered: list[Tensor] = []
    attending = contextlib.ExitStack()

    def enter(
        block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        stream, (more, named) = split_call(args, kwargs)
        entered[:] = [stream]
        attending.enter_context(last_query(model))  # the blocks before attend from every position
        return (stream[:, -1:], *more), named

    def leave(block: nn.Module, args: Any, output: Any) -> Any:
        attending.close()
        left = first_tensor(output)
        assert left is not None
        return with_first(output, left.expand(-1, entered.pop().shape[1], -1))  # some models want as many as they gave

    first, reader = last.get_submodule(parts.first), last.get_submodule(parts.reader)
    with contextlib.ExitStack() as stack:
        stack.callback(attending.close)
        stack.callback(last.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(last.register_forward_hook(leave).remove)
        stack.enter_context(adding_at(first, reader, lambda: entered[0], slice(-1, None)))
        yield
