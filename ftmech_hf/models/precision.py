"""In how many digits something is computed, where those of weights and logits are too few."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)
"""Kinds of devices that have no numbers of float64."""


def widened(weight: Tensor) -> Tensor:
    """A weight in float32 at least: of sums in sixteen bits every step is rounded, and not just what is stored."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def float64_device(device: torch.device) -> torch.device:
    """Where numbers of a device are computed with in float64: there, or on the CPU if it has none."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device
