"""How far two numbers that should be one may be apart after a model computed them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.compiled import NEVER

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 5e-3}
"""How far two sides of an equation may be apart, relative to their size, by the model's type of number."""

COARSE_TOLERANCE = 2e-2
"""The same for bfloat16, which has three digits less."""


def tolerance_of(model: PreTrainedModel) -> float:
    """How far two sides of an equation may be apart in a model's type of number, relative to their size."""
    return TOLERANCE.get(model.dtype, COARSE_TOLERANCE)


def logits_apart(model: PreTrainedModel, expected: Tensor, found: Tensor) -> float:
    """How far a model's logits (..., V) are from others, relative to how far they are apart among themselves.

    What all logits of a place have in common says nothing: one whose logits lie about -100 would agree with any other.
    It is left out, but for its rounding in what the model returns: two numbers of size x that are rounded are apart by
    x times a quarter of the type's precision, as root mean square.

    Left out is also what both say is never written, as words of a compiled program and tokens that are masked are.

    Returns:
        0 or less where they are the same but for rounding; nan where one is nan.
    """
    expected, found = expected.float(), found.float()
    never = (expected == found) & (expected <= NEVER)
    apart, size = (_spread(each.masked_fill(never, 0.0), never) for each in (found - expected, expected))
    apart -= torch.finfo(model.dtype).eps / 3 * float(expected.masked_fill(never, 0.0).norm())
    if not size:
        return 0.0 if apart <= 0 else math.inf
    return apart / size


def _spread(values: Tensor, never: Tensor) -> float:
    """How far values (..., V) are from the mean of their place; a single one from 0."""
    if values.shape[-1] > 1:
        counted = (~never).sum(-1, keepdim=True).clamp(min=1)
        values = (values - values.sum(-1, keepdim=True) / counted).masked_fill(never, 0.0)
    return float(values.norm())
