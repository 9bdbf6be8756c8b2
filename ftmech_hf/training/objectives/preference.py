"""Prefer one answer to another: direct preference optimization (DPO, Rafailov et al., arXiv 2305.18290)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.tasks.schema import Offer
from ftmech_hf.training.objectives.base import IGNORED, Batch, Objective, Shown, joined, show_rows, targets_of


@dataclass(frozen=True, kw_only=True)
class Preference(Objective):
    """The DPO loss: how surely the chosen answer of a pair is told from the rejected one, compared with the start."""

    needs: ClassVar[Offer] = "pairs"
    needs_reference: ClassVar[bool] = True

    beta: float = field(default=0.1, metadata={"help": "how far a preference may lead away from the starting model"})
    rejected_weight: float = field(
        default=1.0, metadata={"help": "of the rejected answer beside 1 for the chosen one; 0.1 in arXiv 2407.10264"}
    )

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta: {self.beta}, expected a number above 0")
        if not 0 <= self.rejected_weight < math.inf:
            raise ValueError(f"rejected_weight: {self.rejected_weight}, expected 0 or more")

    def shown(self, batch: Batch) -> Shown:
        """The chosen rows, and the rejected ones after them."""
        both = joined(batch)
        return show_rows(both, predicted=both.from_first)

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over pairs of ``-log sigmoid(beta * (gain of chosen - rejected_weight * gain of rejected))``.

        A gain is an answer's log-probability above that of the reference.
        """
        assert reference is not None
        both = joined(batch)
        chosen, rejected = (answer_log_probs(logits, both) - answer_log_probs(reference, both)).chunk(2)
        return -F.logsigmoid(self.beta * (chosen - self.rejected_weight * rejected)).mean()

    def weight(self, batch: Batch) -> int:
        """The pairs."""
        return len(batch)


def answer_log_probs(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probability (nats) of each row's answer, the sum over its tokens, (B,)."""
    last = slice(-batch.from_first, None)
    targets = targets_of(batch, batch.answers)[:, last]
    losses = F.cross_entropy(logits[:, last].float().mT, targets, reduction="none", ignore_index=IGNORED)
    return -losses.sum(1)
