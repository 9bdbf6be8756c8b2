"""Predict the answer of a row alone: fine-tuning (Jain et al., arXiv 2311.12786, App. C.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ftmech_hf.tasks.schema import Offer
from ftmech_hf.training.objectives.base import (
    Batch,
    Objective,
    Shown,
    count,
    cross_entropy,
    loss_on,
    show_rows,
    targets_of,
)


@dataclass(frozen=True, kw_only=True)
class AnswerOnly(Objective):
    """Mean cross-entropy of the answers."""

    needs: ClassVar[Offer] = "answers"

    def shown(self, batch: Batch) -> Shown:
        """The rows up to the last token of their answers."""
        if batch.answers is not None:
            return show_rows(batch, predicted=batch.from_first)
        token_ids = batch.token_ids[:, :-2]
        return Shown(token_ids, torch.ones_like(token_ids, dtype=torch.bool), {"logits_to_keep": 1})

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over all tokens of all answers."""
        if batch.answers is not None:
            last = slice(-batch.from_first, None)
            return cross_entropy(logits[:, last], targets_of(batch, batch.answers)[:, last])
        return cross_entropy(logits, batch.token_ids[:, -2:-1])

    def weight(self, batch: Batch) -> int:
        """The answers' tokens."""
        return len(batch) if batch.answers is None else count(batch.answers[:, 1:])


def answer_only_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the answers of rows (B, T)."""
    return loss_on(model, AnswerOnly(), Batch(token_ids))
