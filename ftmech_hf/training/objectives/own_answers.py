"""Learn the answers that the starting model gives: a control, in which tuning teaches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.training.objectives.answer import AnswerOnly
from ftmech_hf.training.objectives.base import IGNORED, Batch, targets_of


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
            now, before = now[counted], before[counted]
        drawn = torch.multinomial(before.float().softmax(-1), 1)[:, 0]
        return F.cross_entropy(now.float(), drawn)
