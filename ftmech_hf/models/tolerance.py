"""How far two numbers that should be one may be apart after a model computed them."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 5e-3}
"""How far two sides of an equation may be apart, relative to their size, by the model's type of number."""

COARSE_TOLERANCE = 2e-2
"""The same for bfloat16, which has three digits less."""


def tolerance_of(model: PreTrainedModel) -> float:
    """How far two sides of an equation may be apart in a model's type of number, relative to their size."""
    return TOLERANCE.get(model.dtype, COARSE_TOLERANCE)
