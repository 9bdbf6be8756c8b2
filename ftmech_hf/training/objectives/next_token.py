"""Predict every token of a row from those before it: pretraining."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ftmech_hf.training.objectives.base import Batch, Objective, Shown, cross_entropy, loss_on, show_rows, targets_of


@dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """Mean cross-entropy of every token of a row given the ones before it."""

    def shown(self, batch: Batch) -> Shown:
        """All of a row but its last token."""
        return show_rows(batch)

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over all rows and tokens."""
        return cross_entropy(logits, targets_of(batch, batch.real))

    def weight(self, batch: Batch) -> int:
        """The tokens that are predicted."""
        if batch.real is None:
            return len(batch) * (batch.token_ids.shape[1] - 1)
        return int(batch.real[:, 1:].sum())


def next_token_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of rows (B, T) given the ones before it."""
    return loss_on(model, NextToken(), Batch(token_ids))
