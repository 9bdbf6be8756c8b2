"""Models on the straight line between two others."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel


def interpolate_weights(first: PreTrainedModel, second: PreTrainedModel, alpha: float) -> PreTrainedModel:
    """The model with weights ``(1 - alpha) * first + alpha * second``: WiSE-FT (Wortsman et al., arXiv 2109.01903).

    Args:
        first: at ``alpha`` 0, exactly; it stays as it is.
        second: at ``alpha`` 1, exactly; of the same shape.
        alpha: more than 1 extrapolates, less than 0 goes the other way.

    Raises:
        ValueError: the models differ in the names or shapes of their weights.
    """
    ends = dict(first.named_parameters()), dict(second.named_parameters())
    shapes = [{name: tuple(p.shape) for name, p in end.items()} for end in ends]
    if shapes[0] != shapes[1]:
        differing = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        raise ValueError(f"models: their weights have other names or shapes: {', '.join(differing[:3])}")
    between = copy.deepcopy(first)
    with torch.no_grad():
        for name, parameter in between.named_parameters():
            parameter.copy_(parameter * (1 - alpha) + ends[1][name].to(parameter.device) * alpha)
    return between.eval()
