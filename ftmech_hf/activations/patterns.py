"""Whether what a model's attention returns beside its output is what its heads attend by.

The value of a token is made of that token alone. So if two tokens enter a block as the same vector, a head finds the
same at both, and what it finds at all positions is made of as few vectors as there are different tokens, weighted by
its pattern. A row of one token at one position and another one at all others has more positions than unknown vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.activations.interventions import on_input
from ftmech_hf.activations.layout import Layout, model_blocks
from ftmech_hf.activations.proofs import NUM_TOKENS, in_evaluation, probe_tokens, run, tolerance_of

OTHER = 1
"""The position of the one token that is another."""


def why_no_patterns(model: PreTrainedModel, layout: Layout) -> str:
    """Why a model's attention patterns cannot be had; empty if they can. One forward pass of a row of four tokens."""
    kind = model.config.model_type
    if model.config._attn_implementation != "eager":
        return 'needs a model loaded with attn_implementation="eager"'
    for site in ("attn_pattern", "head_out"):
        if site in layout.refused:
            return f"cannot be shown: {layout.refused[site]}"
    patterns, heads = _record(model, layout)
    for layer, (pattern, found) in enumerate(zip(patterns, heads, strict=True)):
        where = f"block {layer} of {kind}"
        if pattern is None or pattern.shape[:1] + pattern.shape[2:] != (1, NUM_TOKENS, NUM_TOKENS):
            return f"cannot be shown: the attention of {where} returns none beside its output"
        if found.shape[-1] % pattern.shape[1]:
            return f"cannot be shown: {where} has {pattern.shape[1]} patterns and {found.shape[-1]} outputs of heads"
        tolerance = tolerance_of(model)
        if (pattern.sum(-1) - 1).abs().max() > NUM_TOKENS * tolerance:
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
        heads.append(value.detach().to("cpu", torch.float32, copy=True).reshape(1, NUM_TOKENS, -1))
        return value

    def keep_pattern(_: nn.Module, args: Any, output: Any) -> None:
        given = output[1] if isinstance(output, tuple | list) and len(output) > 1 else None
        pattern = given.detach().to("cpu", torch.float32, copy=True) if isinstance(given, Tensor) else None
        patterns.append(None if pattern is None or pattern.ndim != 4 else pattern)

    for _, block in model_blocks(model):
        handles.append(on_input(block, enter))
        handles.append(on_input(block.get_submodule(layout.attention_out), keep_heads))
        handles.append(block.get_submodule(layout.attention).register_forward_hook(keep_pattern))
    try:
        with in_evaluation(model):
            run(model, probe_tokens(model), logits_to_keep=1)
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
