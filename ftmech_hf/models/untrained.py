"""Whether a model has learned anything yet."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.loading import random_twin


@torch.no_grad()
def never_trained(model: PreTrainedModel) -> bool:
    """Whether a model is as before any training: vectors (norms, biases) of one number each, matrices as if drawn anew.

    In sixteen bits a norm's weights may stay 1 through a training, so that the spread of matrices counts as well. A
    model without any vector counts as trained, and so do those whose vectors are drawn by chance, as the decays of some
    state-space models are.
    """
    vectors = [p for p in model.parameters() if p.ndim == 1]
    if not vectors or not all(bool((p == p[0]).all()) for p in vectors):
        return False
    twin = dict(random_twin(model, 0).named_parameters())
    return all(_as_spread(p, twin[name]) for name, p in model.named_parameters() if p.ndim > 1)


def _as_spread(drawn: Tensor, other: Tensor) -> bool:
    """Whether the spreads of two parameters differ by no more than those of two draws."""
    one, two = (float(each.float().std(correction=0)) for each in (drawn, other))
    return abs(one - two) <= (0.02 + 5 / drawn.numel() ** 0.5) * two
