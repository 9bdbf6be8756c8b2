"""Which tokens of rows are read, counted in real tokens whichever side is padded."""

from __future__ import annotations

import torch
from torch import Tensor


def taken_at(places: Tensor, length: int, site: str, value: Tensor) -> Tensor:
    """A copy of the values at some places (B, P) of rows of so many tokens."""
    # what stands in front of the rows is no token of theirs
    at = places.to(value.device) + value.shape[-2] - length
    return torch.take_along_dim(value, at[:, None, :, None] if site == "attn_pattern" else at[:, :, None], dim=-2)


def token_places(positions: Tensor, token_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Indices (B, P) of the tokens that ``positions`` (P,) name in rows (B, T)."""
    if token_ids.ndim != 2:
        raise ValueError(f"token_ids: {tuple(token_ids.shape)}, expected rows (B, T)")
    real = torch.ones_like(token_ids) if attention_mask is None else attention_mask.to(token_ids.device).long()
    if real.shape != token_ids.shape:
        raise ValueError(f"attention_mask: {tuple(real.shape)}, expected {tuple(token_ids.shape)}")
    if ((real[:, 1:] - real[:, :-1]).abs().sum(-1) > 1).any():
        raise ValueError("attention_mask: padding in the middle of a row, expected it on one side")
    length, first = real.sum(-1, keepdim=True), real.argmax(-1, keepdim=True)
    wanted = torch.where(positions < 0, positions + length, positions.expand(len(real), -1))
    if ((wanted < 0) | (wanted >= length)).any():
        raise ValueError(f"positions: {positions.tolist()}, but the shortest row has {int(length.min())} tokens")
    return first + wanted
