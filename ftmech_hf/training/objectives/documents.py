"""Predict every token of packed documents, which do not see each other: stories.

A row holds documents ``<bos> ... <eos>`` one after another, and padding at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ftmech_hf.tasks.schema import BOS, EOS, PAD, SPECIAL_TOKENS, Offer
from ftmech_hf.training.objectives.base import IGNORED, Batch, Objective, Shown, cross_entropy, loss_on

PAD_ID, BOS_ID, EOS_ID = (SPECIAL_TOKENS.index(token) for token in (PAD, BOS, EOS))


def document_positions(token_ids: Tensor) -> Tensor:
    """Places of the tokens of packed rows (B, T) in their documents; a document begins with ``<bos>``.

    Padding has place 0 throughout. From these places transformers itself keeps documents apart: wherever they do not
    go up by one it lets no token see what is before (``find_packed_sequence_indices``), provided that it is given no
    attention mask and builds no cache.
    """
    place = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
    begins = torch.where(token_ids == BOS_ID, place, 0).cummax(dim=1).values
    return torch.where(token_ids == PAD_ID, 0, place - begins)


def document_targets(token_ids: Tensor) -> Tensor:
    """What each position of packed rows (B, T) but the last predicts, (B, T - 1).

    It is :data:`~ftmech_hf.training.objectives.base.IGNORED` where the next token is padding or begins another
    document.
    """
    following = token_ids[:, 1:]
    return torch.where((following == PAD_ID) | (following == BOS_ID), IGNORED, following)


@dataclass(frozen=True, kw_only=True)
class Documents(Objective):
    """Mean cross-entropy of every token of packed documents given its document up to there."""

    needs: ClassVar[Offer] = "documents"

    def shown(self, batch: Batch) -> Shown:
        """All of a row but its last token, with the places of tokens in their documents."""
        token_ids = batch.token_ids[:, :-1]
        # With a cache, even an empty one, transformers would not look at the positions.
        options = {"position_ids": document_positions(token_ids), "use_cache": False, "logits_to_keep": 0}
        # It warns of padding without a mask. No document sees what stands in the padding after it.
        padding = token_ids == PAD_ID
        return Shown(token_ids.masked_fill(padding, EOS_ID), ~padding, options)

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over all tokens of all documents but the first of each."""
        return cross_entropy(logits, document_targets(batch.token_ids))

    def weight(self, batch: Batch) -> int:
        """The tokens that are predicted."""
        return int((document_targets(batch.token_ids) != IGNORED).sum())

    def rows_weigh_alike(self, batch: Batch) -> bool:
        """No: rows are unequally full."""
        return False


def documents_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of packed rows (B, T) given its document up to there."""
    return loss_on(model, Documents(), Batch(token_ids))
