"""Which of the attention's outputs are one head's, and whether the patterns that it returns are what heads attend by.

The value of a token is made of that token alone. So if two tokens enter a block as the same vector, a head finds the
same at both, and what it finds at all positions is made of as few vectors as there are different tokens, weighted by
its pattern. In a row of one token at one position and another one at all others, a head's outputs lie in a plane, which
those of two heads with different patterns do not.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.activations.interventions import on_input
from ftmech_hf.activations.layout import Layout, find_layout, find_parts, model_blocks
from ftmech_hf.activations.proofs import in_evaluation, probe_tokens, run, tolerance_of

OTHER = 1
"""The position of the one token that is another."""

LENGTH = 6

PLANE_TOLERANCE = 1e-5
"""How far a head's outputs may be from a plane in float32, relative to their size; it is 4e-8 in all models tried."""

HALVES_TOLERANCE = 2e-7
"""The same for two slices taken for two heads: those of different heads are 1e-4 away where weights are drawn anew."""

_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[object, str]] = weakref.WeakKeyDictionary()


def count_heads(model: PreTrainedModel) -> int:
    """The number of attention heads, shown to be that of a model's blocks; one forward pass of a row of six tokens.

    Raises:
        ValueError: the heads' outputs cannot be read, or do not lie beside each other in slices of the same width.
    """
    layout, parts, kind = find_layout(model), find_parts(model), model.config.model_type
    layout.require("head_out")
    number = config_number(model, "num_attention_heads")
    if number is None:
        raise ValueError(f"model: the config of {kind} has no one num_attention_heads, expected as many in every block")
    known = _KNOWN.get(model)
    if known is None or known[0] is not parts:
        known = _KNOWN[model] = parts, _why_not_heads(model, layout, number)
    if known[1]:
        raise ValueError(f"model: no heads: {known[1]}")
    return number


def config_number(model: PreTrainedModel, name: str) -> int | None:
    """A number of a model's config; None if it has none, or another one for some layers."""
    try:
        value = getattr(model.config, name, None)
    except (AttributeError, ValueError, RuntimeError):  # transformers' own, where layers differ
        return None
    return value if isinstance(value, int) else None


def _why_not_heads(model: PreTrainedModel, layout: Layout, number: int) -> str:
    """Why heads are not slices of what the attention's last matrix reads; empty if they are."""
    is_exact = model.dtype in (torch.float32, torch.float64)
    tolerance = PLANE_TOLERANCE if is_exact else 10 * tolerance_of(model)
    halves = []
    for layer, found in enumerate(_record(model, layout)[1]):
        where = f"block {layer} of {model.config.model_type}"
        if found.shape[-1] % number:
            return f"{found.shape[-1]} inputs of {layout.attention_out} in {where}, expected a multiple of {number}"
        same = [place for place in range(LENGTH) if place != OTHER]  # the same token: gates are the same there
        heads = found[0, same].unflatten(-1, (number, -1)).transpose(0, 1).double()  # (H, T, width of a head)
        if not _in_planes(heads, tolerance):
            return f"{number} slices of what {layout.attention_out} reads in {where} are not one head each"
        pairs = torch.cat([heads[0::2], heads[1::2]], -1) if number % 2 == 0 else heads[:0]
        vary = (heads - heads[:, :1]).norm(dim=(1, 2)) > tolerance * heads.norm(dim=(1, 2))
        halves.append(bool(len(pairs) and vary.all() and _in_planes(pairs, HALVES_TOLERANCE)))
    if is_exact and all(halves):
        return f"{number} slices of what {layout.attention_out} reads are halves of heads in {model.config.model_type}"
    return ""


def _in_planes(heads: Tensor, tolerance: float) -> bool:
    """Whether the outputs (H, T, width) of each head lie in a plane."""
    sizes = torch.linalg.svdvals(heads)
    return bool((sizes[:, 2:].sum(-1) <= tolerance * sizes[:, 0]).all())


def why_no_patterns(model: PreTrainedModel, layout: Layout) -> str:
    """Why a model's attention patterns cannot be had; empty if they can. One forward pass of a row of six tokens."""
    kind = model.config.model_type
    if model.config._attn_implementation != "eager":
        return 'needs a model loaded with attn_implementation="eager"'
    for site in ("attn_pattern", "head_out"):
        if site in layout.refused:
            return f"cannot be shown: {layout.refused[site]}"
    patterns, heads = _record(model, layout)
    for layer, (pattern, found) in enumerate(zip(patterns, heads, strict=True)):
        where = f"block {layer} of {kind}"
        if pattern is None or pattern.shape[:1] + pattern.shape[2:] != (1, LENGTH, LENGTH):
            return f"cannot be shown: the attention of {where} returns none beside its output"
        if found.shape[-1] % pattern.shape[1]:
            return f"cannot be shown: {where} has {pattern.shape[1]} patterns and {found.shape[-1]} outputs of heads"
        tolerance = tolerance_of(model)
        if (pattern.sum(-1) - 1).abs().max() > LENGTH * tolerance:
            return f"cannot be shown: rows of {where} do not sum to one"
        if not _explains(pattern[0], found[0], tolerance):
            return f"cannot be shown: what the heads of {where} put out is not what their patterns say"
    return ""


def _record(model: PreTrainedModel, layout: Layout) -> tuple[list[Tensor | None], list[Tensor]]:
    """Patterns (1, H, T, T) and the heads' outputs (1, T, width) of every block, given the two tokens."""
    patterns: list[Tensor | None] = []
    heads: list[Tensor] = []
    handles = []

    def enter(stream: Tensor) -> Tensor:
        stream = stream[:, :1].repeat(1, stream.shape[1], 1)
        stream[:, OTHER] += stream.square().mean().sqrt() * torch.linspace(-1, 1, stream.shape[-1]).to(stream)
        return stream

    def keep_heads(value: Tensor) -> Tensor:
        heads.append(value.detach().to("cpu", torch.float32, copy=True).reshape(1, LENGTH, -1))
        return value

    def keep_pattern(_: nn.Module, args: Any, output: Any) -> None:
        given = output[1] if isinstance(output, tuple | list) and len(output) > 1 else None
        pattern = given.detach().to("cpu", torch.float32, copy=True) if isinstance(given, Tensor) else None
        patterns.append(None if pattern is None or pattern.ndim != 4 else pattern)

    for _, block in model_blocks(model):
        handles.append(on_input(block, enter))
        handles.append(on_input(block.get_submodule(layout.attention_out), keep_heads))
        if layout.attention:
            handles.append(block.get_submodule(layout.attention).register_forward_hook(keep_pattern))
    try:
        with in_evaluation(model):
            run(model, probe_tokens(model, LENGTH), logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    return patterns, heads


def _explains(pattern: Tensor, heads: Tensor, tolerance: float) -> bool:
    """Whether patterns (H, T, T) times two vectors per head give the heads' outputs (T, width)."""
    outputs = heads.unflatten(-1, (len(pattern), -1)).transpose(0, 1).double()  # (H, T, width of a head)
    on_other = pattern[..., OTHER].double()
    weights = torch.stack([pattern.double().sum(-1) - on_other, on_other], -1)  # (H, T, 2)
    rest = outputs - weights @ (torch.linalg.pinv(weights, rtol=1e-6) @ outputs)
    return bool((rest.flatten(1).norm(dim=1) <= 10 * tolerance * outputs.flatten(1).norm(dim=1)).all())
