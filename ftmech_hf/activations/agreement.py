"""Whether a shortcut gives the logits that the model gives: what is tried on a model is believed only where it does."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.compiled import NEVER
from ftmech_hf.models.tolerance import tolerance_of


def same_logits(model: PreTrainedModel, found: Tensor, expected: Tensor) -> bool:
    """Whether logits are those expected, as far as a model's type of number tells them apart; nan is never the same.

    Args:
        model: whose logits they are.
        found, expected: of the same rows, (R, V).
    """
    if found.shape != expected.shape or bool((found.isnan() | expected.isnan()).any()):
        return False
    possible = expected > NEVER  # others, such as words that a program never says, are no measure of a spread
    if not torch.equal(found > NEVER, possible):
        return False
    found, expected = found[possible], expected[possible]
    if not len(expected):
        return True
    # one number, which has no spread, is rounded as well
    rounding = torch.finfo(model.dtype).eps * expected.abs().max()
    most = tolerance_of(model) * (expected.max() - expected.min()) + rounding
    return bool((found - expected).abs().max() <= most)
