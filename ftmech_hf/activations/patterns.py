"""Which of the attention's outputs are one head's, and whether the patterns that it returns are what heads attend by.

The value of a token is made of that token alone. So if two tokens enter a block as the same vector, a head finds the
same at both, and what it finds at all positions is made of as few vectors as there are different tokens, weighted by
its pattern. In a row of one token at one position and another one at all others, a head's outputs lie in a plane, which
those of two heads with different patterns do not.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.activations.interventions import on_input
from ftmech_hf.activations.layout import Layout, find_layout, find_parts, model_blocks
from ftmech_hf.activations.proofs import in_evaluation, probe_tokens, run, text_config
from ftmech_hf.models.memory import rows_of_patterns
from ftmech_hf.models.tolerance import tolerance_of

OTHER = 1
"""The position of the one token that is another."""

LENGTH = 6

PATTERN_BYTES = 2**29
"""Of the attention weights of one block and some rows at most; a block makes a few copies of them."""

PLANE_TOLERANCE = 1e-5
"""How far a head's outputs may be from a plane in float32, relative to their size; it is 4e-8 in all models tried."""

HALVES_TOLERANCE = 2e-7
"""The same for two slices taken for two heads: those of different heads are 1e-4 away where weights are drawn anew."""

_KNOWN: weakref.WeakKeyDictionary[nn.Module, tuple[object, dict[int, str]]] = weakref.WeakKeyDictionary()


def count_heads(model: PreTrainedModel) -> tuple[int, list[int]]:
    """The number of attention heads, and the layers where they are what ``head_out`` is made of.

    Shown in one forward pass of a row of six tokens.

    Raises:
        ValueError: the heads' outputs can be read nowhere, or do not lie beside each other in slices of the same width.
    """
    layout, parts, kind = find_layout(model), find_parts(model), model.config.model_type
    layers = layout.layers_of("head_out")
    if not layers:
        layout.require("head_out")
    number = config_number(model, "num_attention_heads")
    if number is None:
        raise ValueError(f"model: the config of {kind} has no one num_attention_heads, expected as many in every block")
    known = _KNOWN.get(model)
    if known is None or known[0] is not parts:
        known = _KNOWN[model] = parts, _why_not_heads(model, layout, number)
    if len(known[1]) == len(layers):
        raise ValueError(f"model: no heads: {next(iter(known[1].values()))}")
    return number, [layer for layer in layers if layer not in known[1]]


def patterns_at_once(model: PreTrainedModel, tokens: int, most: int) -> int:
    """How many rows of so many tokens are read with patterns: ``most``, or as many as have :data:`PATTERN_BYTES`."""
    return min(most, rows_of_patterns(model.config, tokens, PATTERN_BYTES))


def config_number(model: PreTrainedModel, name: str) -> int | None:
    """A number of a model's config; None if it has none, or another one for some layers."""
    try:
        value = getattr(text_config(model), name, None)
    except (AttributeError, ValueError, RuntimeError):  # transformers' own, where layers differ
        return None
    return value if isinstance(value, int) else None


def _why_not_heads(model: PreTrainedModel, layout: Layout, number: int) -> dict[int, str]:
    """Layer -> why heads are not slices of what its attention's last matrix reads."""
    is_exact, kind = model.dtype in (torch.float32, torch.float64), model.config.model_type
    tolerance = PLANE_TOLERANCE if is_exact else 10 * tolerance_of(model)
    halves, why = {}, {}
    for layer, found in _record(model, layout)[1].items():
        where, path = f"block {layer} of {kind}", layout.layers[layer].attention_out
        if found.shape[-1] % number:
            why[layer] = f"{found.shape[-1]} inputs of {path} in {where}, expected a multiple of {number}"
            continue
        same = [place for place in range(LENGTH) if place != OTHER]  # the same token: gates are the same there
        heads = found[0, same].unflatten(-1, (number, -1)).transpose(0, 1).double()  # (H, T, width of a head)
        if not _in_planes(heads, tolerance):
            why[layer] = f"{number} slices of what {path} reads in {where} are not one head each"
            continue
        pairs = torch.cat([heads[0::2], heads[1::2]], -1) if number % 2 == 0 else heads[:0]
        vary = (heads - heads[:, :1]).norm(dim=(1, 2)) > tolerance * heads.norm(dim=(1, 2))
        halves[layer] = bool(len(pairs) and vary.all() and _in_planes(pairs, HALVES_TOLERANCE))
    if is_exact and halves and all(halves.values()):
        path = layout.layers[next(iter(halves))].attention_out
        why |= dict.fromkeys(halves, f"{number} slices of what {path} reads are halves of heads in {kind}")
    return why


def _in_planes(heads: Tensor, tolerance: float) -> bool:
    """Whether the outputs (H, T, width) of each head lie in a plane."""
    sizes = torch.linalg.svdvals(heads)
    return bool((sizes[:, 2:].sum(-1) <= tolerance * sizes[:, 0]).all())


def why_no_patterns(model: PreTrainedModel, layout: Layout) -> dict[int, str]:
    """Layer -> why its attention patterns cannot be had. One forward pass of a row of six tokens."""
    every = range(len(layout.layers))
    if model.config._attn_implementation != "eager":
        return dict.fromkeys(every, 'needs a model loaded with attn_implementation="eager"')
    why = {
        layer: f"cannot be shown: {block.refused[site]}"
        for layer, block in enumerate(layout.layers) for site in ("head_out", "attn_pattern") if site in block.refused
    }  # fmt: skip
    if len(why) < len(layout.layers):
        patterns, heads = _record(model, layout)
        for layer in every:
            if layer not in why and (reason := _why_no_pattern(model, layer, patterns.get(layer), heads[layer])):
                why[layer] = f"cannot be shown: {reason}"
    return why


def _why_no_pattern(model: PreTrainedModel, layer: int, pattern: Tensor | None, heads: Tensor) -> str:
    where, tolerance = f"block {layer} of {model.config.model_type}", tolerance_of(model)
    if pattern is None or pattern.shape[:1] + pattern.shape[2:] != (1, LENGTH, LENGTH):
        return f"the attention of {where} returns none beside its output"
    if heads.shape[-1] % pattern.shape[1]:
        return f"{where} has {pattern.shape[1]} patterns and {heads.shape[-1]} outputs of heads"
    if (pattern.sum(-1) - 1).abs().max() > LENGTH * tolerance:
        return f"rows of {where} do not sum to one"
    if not _explains(pattern[0], heads[0], tolerance):
        return f"what the heads of {where} put out is not what their patterns say"
    return ""


def _record(model: PreTrainedModel, layout: Layout) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Layer -> patterns (1, H, T, T) and heads' outputs (1, T, width), given the two tokens, where they are found."""
    patterns: dict[int, Tensor] = {}
    heads: dict[int, Tensor] = {}

    def enter(stream: Tensor) -> Tensor:
        stream = stream[:, :1].repeat(1, stream.shape[1], 1)
        stream[:, OTHER] += stream.square().mean().sqrt() * torch.linspace(-1, 1, stream.shape[-1]).to(stream)
        return stream

    with contextlib.ExitStack() as stack:
        for layer, (_, block) in enumerate(model_blocks(model)):

            def keep_heads(value: Tensor, layer: int = layer) -> Tensor:
                heads[layer] = value.detach().to("cpu", torch.float32, copy=True).reshape(1, LENGTH, -1)
                return value

            def keep_pattern(_: nn.Module, args: Any, output: Any, layer: int = layer) -> None:
                given = output[1] if isinstance(output, tuple | list) and len(output) > 1 else None
                if isinstance(given, Tensor) and given.ndim == 4:
                    patterns[layer] = given.detach().to("cpu", torch.float32, copy=True)

            stack.callback(on_input(block, enter).remove)
            parts = layout.layers[layer]
            if parts.attention_out:
                stack.callback(on_input(block.get_submodule(parts.attention_out), keep_heads).remove)
            if parts.attention:
                attention = block.get_submodule(parts.attention)
                stack.callback(attention.register_forward_hook(keep_pattern).remove)
        with in_evaluation(model):
            run(model, probe_tokens(model, LENGTH), logits_to_keep=1)
    return patterns, heads


def _explains(pattern: Tensor, heads: Tensor, tolerance: float) -> bool:
    """Whether patterns (H, T, T) times two vectors per head give the heads' outputs (T, width)."""
    outputs = heads.unflatten(-1, (len(pattern), -1)).transpose(0, 1).double()  # (H, T, width of a head)
    on_other = pattern[..., OTHER].double()
    weights = torch.stack([pattern.double().sum(-1) - on_other, on_other], -1)  # (H, T, 2)
    rest = outputs - weights @ (torch.linalg.pinv(weights, rtol=1e-6) @ outputs)
    return bool((rest.flatten(1).norm(dim=1) <= 10 * tolerance * outputs.flatten(1).norm(dim=1)).all())
