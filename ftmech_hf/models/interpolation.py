"""Models on the straight line between two others."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel


def mix_weights(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) * first + alpha * second``; at 0 and at 1 one of the two itself, to the bit."""
    if alpha in (0, 1):
        return second if alpha else first
    return first * (1 - alpha) + second * alpha


def check_same_shapes(*models: PreTrainedModel) -> None:
    """Make sure that models have the same weights, by name and shape.

    Raises:
        ValueError: they differ.
    """
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in models]
    for other in shapes[1:]:
        if other != shapes[0]:
            differing = sorted({name for name, _ in shapes[0].items() ^ other.items()})
            raise ValueError(f"models: their weights have other names or shapes: {', '.join(differing[:3])}")


def interpolate_weights(first: PreTrainedModel, second: PreTrainedModel, alpha: float) -> PreTrainedModel:
    """The model with weights ``(1 - alpha) * first + alpha * second``: WiSE-FT (Wortsman et al., arXiv 2109.01903).

    Args:
        first: at ``alpha`` 0, exactly; it stays as it is.
        second: at ``alpha`` 1, exactly; of the same shape.
        alpha: more than 1 extrapolates, less than 0 goes the other way.

    Raises:
        ValueError: the models differ in the names or shapes of their weights.
    """
    check_same_shapes(first, second)
    ends = dict(second.named_parameters())
    between = copy.deepcopy(first)
    with torch.no_grad():
        for name, parameter in between.named_parameters():
            parameter.copy_(mix_weights(parameter, ends[name].to(parameter.device), alpha))
    return between.eval()
