"""Writes at named sites: while a context is open, a model computes with what it is given there.

These are torch hooks, so that they hold for whatever calls the model: a plain forward pass, ``generate``, training, a
trace. That a hook and nnsight write the same is a test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ftmech_hf.activations.experts import ROUTED_SITES, changed_experts
from ftmech_hf.activations.layout import BlockLayout, find_layout, model_blocks
from ftmech_hf.activations.proofs import first_tensor, with_first
from ftmech_hf.models.prompt_learning import tokens_in_front

WRITABLE = ("resid_pre", "resid_post", "mlp_act", "head_out", "attn_out", "router", "expert_act", "shared_act")

Write = Callable[[Tensor], Tensor]
"""The value at a site (B, T, width) -> what to compute with in its place, of the same shape."""


def _checked(write: Write, value: Tensor, site: tuple[str, int], reached: set[tuple[str, int]]) -> Tensor:
    reached.add(site)
    written = write(value)
    if written.shape != value.shape:
        raise ValueError(f"intervene: {site} has shape {tuple(value.shape)}, but {tuple(written.shape)} was written")
    return written.to(value.dtype)


def _behind(front: int, write: Write) -> Write:
    """A write at a row's own positions alone, behind so many others."""
    return (lambda value: torch.cat([value[:, :front], write(value[:, front:])], 1)) if front else write


def on_input(module: nn.Module, change: Write) -> RemovableHandle:
    """Change the first tensor that a module is given, until the handle is removed."""

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        return args, {**kwargs, name: change(kwargs[name])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def on_output(module: nn.Module, change: Write) -> RemovableHandle:
    """Change what a module returns, or the first of it, until the handle is removed."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        first = first_tensor(output)
        assert first is not None
        return with_first(output, change(first))

    return module.register_forward_hook(hook)


@contextlib.contextmanager
def rows_of(block: nn.Module) -> Iterator[Callable[[Write], Write]]:
    """While open, gives changes of a block's parts their values by rows (B, T, width).

    Some blocks put all rows behind each other before they hand them to their MLP; the value's rows are the stream's.
    """
    entered: list[torch.Size] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
        entered[:] = [stream.shape[:-1]]

    def by_rows(change: Write) -> Write:
        def changed(value: Tensor) -> Tensor:
            if not entered or value.ndim != 2 or len(value) != entered[0].numel():
                return change(value)
            return change(value.unflatten(0, entered[0])).reshape(value.shape)

        return changed

    handle = block.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield by_rows
    finally:
        handle.remove()


def scaled(change: Write, scale: float) -> Write:
    """A change of a value times a constant; a value that is only read stays as it is, to the bit.

    Unless somebody follows its gradients, or may have written into it.
    """

    def changed(value: Tensor) -> Tensor:
        whole = value * scale
        written = change(whole)
        untouched = written is whole and not (whole.requires_grad or whole.is_inference()) and whole._version == 0
        return value if untouched else written / scale

    return change if scale == 1.0 else changed


def _writer(write: Write | Tensor, place: tuple[str, int], front: int, reached: set[tuple[str, int]]) -> Write:
    """What puts a function's value, or a tensor, in the place of what is at a site behind so many positions."""
    given = write

    def replace(old: Tensor) -> Tensor:
        assert isinstance(given, Tensor)
        try:
            return torch.broadcast_to(given.to(old.device), old.shape)
        except RuntimeError:
            shapes = f"has shape {tuple(old.shape)}, but {tuple(given.shape)} was written"
            raise ValueError(f"intervene: {place[0]} {shapes}") from None

    chosen = given if callable(given) else replace
    behind = _behind(front, chosen)
    return lambda value: _checked(behind, value, place, reached)


def _hook(stack: contextlib.ExitStack, block: nn.Module, parts: BlockLayout, site: str, change: Write) -> None:
    """Change a site of a block that no experts are in, until the stack is closed."""
    if site == "resid_pre":
        handle = on_input(block, change)
    elif site == "resid_post":
        handle = on_output(block, change)
    elif site == "attn_out":
        by_rows = stack.enter_context(rows_of(block))
        added = block.get_submodule(parts.attention_added)
        handle = on_output(added, by_rows(scaled(change, parts.attention_scale)))
    else:
        by_rows = stack.enter_context(rows_of(block))
        path = {"mlp_act": parts.mlp_down, "head_out": parts.attention_out, "shared_act": parts.shared_down}[site]
        handle = on_input(block.get_submodule(path), by_rows(change))
    stack.callback(handle.remove)


@contextlib.contextmanager
def intervene(model: PreTrainedModel, writes: Mapping[tuple[str, int], Write | Tensor]) -> Iterator[None]:
    """Write at named sites while the context is open; afterwards the model is as it was.

    Args:
        model: any causal LM.
        writes: (site, layer) -> what to write: a function of the value that is there, or a tensor that replaces it and
            broadcasts to its shape. Sites are :data:`WRITABLE`; layers are 0-based.

    Raises:
        ValueError: an unknown site or layer, a site that could not be shown in this model, or a value of another shape.
        RuntimeError: on exit, if the model ran but a site was never reached: such a write would go unnoticed.
    """
    layout, blocks = find_layout(model), [block for _, block in model_blocks(model)]
    front = tokens_in_front(model)
    reached: set[tuple[str, int]] = set()
    ran: list[bool] = []
    for site, layer in writes:
        if site not in WRITABLE:
            raise ValueError(f"intervene: unknown site {site!r}, expected one of {', '.join(WRITABLE)}")
        if not 0 <= layer < len(blocks):
            raise ValueError(f"intervene: layer {layer} of {site}, expected 0 to {len(blocks) - 1}")
        layout.require(site, layer)
    routed: dict[int, dict[str, Write]] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(model.register_forward_hook(lambda *_: ran.append(True)).remove)
        for (site, layer), write in writes.items():
            change = _writer(write, (site, layer), front, reached)
            if site in ROUTED_SITES:
                by_rows = stack.enter_context(rows_of(blocks[layer]))
                routed.setdefault(layer, {})[site] = by_rows(change)
            else:
                _hook(stack, blocks[layer], layout.layers[layer], site, change)
        for layer, changes in routed.items():
            experts = blocks[layer].get_submodule(layout.layers[layer].experts)
            stack.enter_context(changed_experts(experts, changes))
        yield
    missed = [place for place in writes if place not in reached]
    if ran and missed:
        raise RuntimeError(f"intervene: the model ran, but never passed {missed[0]}")
