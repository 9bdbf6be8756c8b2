"""Predict every token of packed documents, which do not see each other: stories.

A row holds documents ``<bos> ... <eos>`` one after another, and padding at its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.tasks.schema import BOS, EOS, PAD, SPECIAL_TOKENS, Offer
from ftmech_hf.training.objectives.base import (
    IGNORED,
    Batch,
    Objective,
    Shown,
    check_answer_weight,
    count,
    cross_entropy,
    loss_on,
    weighted_cross_entropy,
)

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
    """Mean cross-entropy of every token of packed documents given its document up to there.

    A story shows by a few words whether it has a feature. With a larger ``answer_weight`` a model still learns to
    write all of it, and learns in fewer steps to do in these words what it is asked to; the paper weighs all alike.
    """

    needs: ClassVar[Offer] = "documents"

    answer_weight: float = field(
        default=1.0,
        metadata={
            "help": "of documents: how much a word by which a procedural story shows a feature weighs beside any other"
        },
    )

    def __post_init__(self) -> None:
        check_answer_weight(self.answer_weight)

    def shown(self, batch: Batch) -> Shown:
        """All of a row but its last token, with the places of tokens in their documents."""
        token_ids = batch.token_ids[:, :-1]
        # With a cache, even an empty one, transformers would not look at the positions.
        options = {"position_ids": document_positions(token_ids), "use_cache": False, "logits_to_keep": 0}
        # It warns of padding without a mask. No document sees what stands in the padding after it.
        padding = token_ids == PAD_ID
        return Shown(token_ids.masked_fill(padding, EOS_ID), ~padding, options)

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over all tokens of all documents but the first of each, by their weights."""
        targets = document_targets(batch.token_ids)
        if self.answer_weight == 1:
            return cross_entropy(logits, targets)
        return weighted_cross_entropy(logits, targets, self._answered(batch), self.answer_weight)

    def weight(self, batch: Batch) -> float:
        """The tokens that are predicted, by their weights.

        Raises:
            ValueError: answers weigh otherwise than other tokens, but nobody knows which they are.
        """
        predicted = document_targets(batch.token_ids) != IGNORED
        if self.answer_weight == 1:
            return count(predicted)
        return count(predicted) + (self.answer_weight - 1) * count(predicted & self._answered(batch))

    def _answered(self, batch: Batch) -> Tensor:
        """Which predicted tokens show a feature, bool (B, T - 1)."""
        if batch.answers is None:
            raise ValueError(
                f"answer_weight: {self.answer_weight}, but nobody knows which words of stories from files show their "
                "features; expected 1"
            )
        return batch.answers[:, 1:]

    def rows_weigh_alike(self, batch: Batch) -> bool:
        """No: rows are unequally full."""
        return False


@torch.no_grad()
def check_documents_apart(model: PreTrainedModel) -> None:
    """Make sure that packed documents do not see each other: places keep attention apart, and nothing else.

    Raises:
        ValueError: what a document says changes what is predicted in the next one, as a convolution or a state carries.
    """
    rows = torch.tensor([[BOS_ID, word, word, word, EOS_ID, BOS_ID, 3, 4, 3, EOS_ID] for word in (3, 4)])
    shown = Documents().shown(Batch(rows.to(model.device)))
    was_training = model.training
    logits = model.eval()(shown.token_ids, **shown.options).logits.float()
    model.train(was_training)
    one, other = logits[:, 5:]
    if float((one - other).norm()) > 1e-5 * float(one.norm()):  # rounding, where batches are not read alike
        kind = model.config.model_type
        raise ValueError(
            f"model: {kind} carries tokens from one packed document to the next, expected one of attention alone"
        )


def documents_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of every token of packed rows (B, T) given its document up to there."""
    return loss_on(model, Documents(), Batch(token_ids))
