"""Learn the answers that the starting model gives: a control, in which tuning teaches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.training.objectives.answer import AnswerOnly
from ftmech_hf.training.objectives.base import IGNORED, Batch, answered_places, targets_of


@dataclass(frozen=True, kw_only=True)
class OwnAnswers(AnswerOnly):
    """Cross-entropy of answers that are drawn from the starting model, a new one every time a row is seen.

    At the start the gradient is zero on average. What changes a model that is trained so is the noise of tuning, and
    what is lost with it is lost to tuning as such, whatever is taught.
    """

    needs_reference: ClassVar[bool] = True

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over all tokens of all answers, drawn token by token."""
        assert reference is not None
        now, before = logits[:, -batch.from_first :], reference[:, -batch.from_first :]
        if batch.answers is None:
            now, before = logits[:, -1], reference[:, -1]
        else:
            counted = targets_of(batch, batch.answers)[:, -batch.from_first :] != IGNORED
            places = answered_places(counted, batch.num_answered)
            now, before = now.flatten(0, 1)[places], before.flatten(0, 1)[places]
        return F.cross_entropy(now.float(), draw(before.float().softmax(-1)))


def draw(probabilities: Tensor) -> Tensor:
    """One place of each row of probabilities (B, V), drawn as ``torch.multinomial`` draws it, (B,).

    Which looks first whether they are any, and waits for the device to see it: a loss that is no number shows anyway.
    """
    return (probabilities / torch.empty_like(probabilities).exponential_(1)).argmax(-1)
