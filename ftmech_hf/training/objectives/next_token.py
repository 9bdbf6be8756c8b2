"""Predict every token of a row from those before it: pretraining."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ftmech_hf.training.objectives.base import (
    Batch,
    Objective,
    Shown,
    check_answer_weight,
    count,
    cross_entropy,
    loss_on,
    show_rows,
    targets_of,
    weighted_cross_entropy,
)


@dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """Mean cross-entropy of every token of a row given the ones before it.

    In a row of the procedural tasks one token in forty is an answer. With a larger ``answer_weight`` a model still
    learns to predict all of a row, and learns to answer in fewer steps; the papers weigh all tokens alike.
    """

    answer_weight: float = field(
        default=1.0, metadata={"help": "of next_token: how much a token of an answer weighs beside any other token"}
    )

    def __post_init__(self) -> None:
        check_answer_weight(self.answer_weight)

    def shown(self, batch: Batch) -> Shown:
        """All of a row but its last token."""
        return show_rows(batch)

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over all rows and tokens, by their weights."""
        targets = targets_of(batch, batch.real)
        if self.answer_weight == 1:
            return cross_entropy(logits, targets)
        return weighted_cross_entropy(logits, targets, _answered(batch), self.answer_weight)

    def weight(self, batch: Batch) -> float:
        """The tokens that are predicted, by their weights."""
        number = batch.token_ids[:, 1:].numel() if batch.real is None else count(batch.real[:, 1:])
        if self.answer_weight == 1:
            return number
        return number + (self.answer_weight - 1) * count(_answered(batch))


def _answered(batch: Batch) -> Tensor:
    """Which predicted tokens are an answer's, bool (B, T - 1)."""
    if batch.answers is not None:
        return batch.answers[:, 1:]
    answered = torch.zeros_like(batch.token_ids[:, 1:], dtype=torch.bool)
    answered[:, -2] = True
    return answered


def next_token_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of rows (B, T) given the ones before it."""
    return loss_on(model, NextToken(), Batch(token_ids))
