"""Does an ability come back when weights are tampered with? Fewer bits, and noise.

Round-to-nearest with a scale for every output row undoes small changes that stand on a large weight (arXiv 2410.16454);
noise takes apart what is fragile, and a hidden ability under a thin change may rise with it, while one that is not
there cannot (arXiv 2412.01784).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def rounded(weight: Tensor, bits: int, *, axis: int = 0) -> Tensor:
    """A matrix with so many bits a number: whole steps from the least to the largest of each output's weights.

    Args:
        weight: (outputs, inputs), or turned; or several, (experts, outputs, inputs).
        bits: of each number, its sign among them; at least 2.
        axis: of the outputs of one matrix, 0 or 1.
    """
    steps = 2 ** (bits - 1) - 1
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scale = (exact.abs().amax(-2 if axis else -1, keepdim=True) / steps).clamp(min=1e-30)
    return ((exact / scale).round() * scale).to(weight.dtype)


def noisy(weight: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """A matrix with normal noise added.

    Args:
        weight: a matrix, or several, (experts, rows, columns).
        size: standard deviation of the noise, in that of the weights of each matrix.
        generator: of the noise, on the CPU.
    """
    noise = torch.randn(weight.shape, generator=generator).to(weight)
    return weight + size * weight.std((-2, -1), keepdim=True) * noise


def all_rounded(weights: Mapping[str, Tensor], axes: Mapping[str, int], bits: int) -> dict[str, Tensor]:
    """:func:`rounded` matrices by name."""
    return {name: rounded(weight.detach(), bits, axis=axes[name]) for name, weight in weights.items()}


def all_noisy(weights: Mapping[str, Tensor], size: float, *, seed: int) -> dict[str, Tensor]:
    """:func:`noisy` matrices by name."""
    generator = torch.Generator().manual_seed(seed)
    return {name: noisy(weight.detach(), size, generator) for name, weight in weights.items()}
