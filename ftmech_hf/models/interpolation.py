"""Models on the straight line between two others."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.computation import check_same_computation
from ftmech_hf.models.precision import widened
from ftmech_hf.models.stored import stored_tensors


def mix_weights(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) * first + alpha * second``; at 0 and at 1 one of the two itself, to the bit.

    It is rounded once, so that weights in sixteen bits which are equal in both stay what they are.
    """
    if alpha in (0, 1):
        return second if alpha else first
    mixed = widened(first) * (1 - alpha) + widened(second) * alpha
    return mixed.to(torch.result_type(first, second))


def check_same_shapes(*models: PreTrainedModel) -> None:
    """Make sure that weights between models are a model: of the same names and shapes, for the same computation.

    Raises:
        ValueError: their weights differ in name or shape, or their configs in what is computed with them.
    """
    shapes = [{name: tuple(p.shape) for name, p in stored_tensors(model).items()} for model in models]
    for other in shapes[1:]:
        if other != shapes[0]:
            differing = sorted({name for name, _ in shapes[0].items() ^ other.items()})
            raise ValueError(f"models: their weights have other names or shapes: {', '.join(differing[:3])}")
    for another in models[1:]:
        check_same_computation("models", models[0], another)


def interpolate_weights(
    first: PreTrainedModel, second: PreTrainedModel, alpha: float, into: PreTrainedModel | None = None
) -> PreTrainedModel:
    """The model with weights ``(1 - alpha) * first + alpha * second``: WiSE-FT (Wortsman et al., arXiv 2109.01903).

    Args:
        first: at ``alpha`` 0, exactly; it stays as it is.
        second: at ``alpha`` 1, exactly; of the same shape.
        alpha: more than 1 extrapolates, less than 0 goes the other way.
        into: a copy of one of them, whose weights are overwritten; a new one if None. Many models on a line then take
            the memory of one.

    Raises:
        ValueError: the models differ in the names or shapes of their weights, or in what is computed with them.
    """
    between = copy.deepcopy(first) if into is None else into
    check_same_shapes(first, second, between)
    starts, ends = (stored_tensors(each) for each in (first, second))
    with torch.no_grad():
        for name, parameter in stored_tensors(between).items():
            one, other = (each[name].to(parameter.device) for each in (starts, ends))
            parameter.copy_(mix_weights(one, other, alpha))
    return between.eval()
