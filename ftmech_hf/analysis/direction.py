"""Does one direction of the stream carry it? A difference in means, taken out of the stream and put into it.

After Arditi et al. (arXiv 2406.11717): the direction is the mean of one kind of activations behind a layer less that of
another kind. Taken out, it is removed from the stream before and after every block, at every place; put in, it is added
behind its layer, at every place. The control is a direction by chance, of the same length.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import model_blocks
from ftmech_hf.activations.interventions import Write

Writes = Mapping[tuple[str, int], Write]
"""(site, layer) -> what :func:`ftmech_hf.activations.intervene` writes there."""


def difference_in_means(there: Tensor, here: Tensor) -> Tensor:
    """The mean of activations (B, D) less that of others (C, D), (D,)."""
    return there.mean(0) - here.mean(0)


def taken_out(model: PreTrainedModel, direction: Tensor) -> Writes:
    """Writes that leave nothing of a direction (D,) in the stream, before and after every block.

    Raises:
        ValueError: the direction is 0.
    """
    if not direction.any():
        raise ValueError("direction: 0 points nowhere, expected a direction of some length")
    unit = (direction / direction.norm()).to(model.device, model.dtype)

    def write(stream: Tensor) -> Tensor:
        along = unit.to(stream)
        return stream - (stream @ along)[..., None] * along

    return {("resid_pre", 0): write, **{("resid_post", layer): write for layer in range(len(model_blocks(model)))}}


def put_in(model: PreTrainedModel, direction: Tensor, layer: int) -> Writes:
    """A write that adds a direction (D,) to the stream after a layer."""
    there = direction.to(model.device, model.dtype)
    return {("resid_post", layer): lambda stream: stream + there.to(stream)}


def random_direction(direction: Tensor, generator: torch.Generator) -> Tensor:
    """A direction by chance that is as long as another one, (D,)."""
    drawn = torch.randn(direction.shape, generator=generator)
    return drawn * (direction.norm() / drawn.norm())
