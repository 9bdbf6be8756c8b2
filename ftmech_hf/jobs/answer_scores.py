"""How well a model gives answers of any number of tokens: a loss to differentiate, and scores of every row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.padding import padded_inputs
from ftmech_hf.training.objectives import IGNORED

BATCH = 256
"""Answers that are scored at a time; fewer of longer ones, so that their logits take no more memory."""

CHOICES = 64
"""Choices between two answers at a time: whole stories may stand before them."""


def answer_inputs(model: PreTrainedModel, rows: AnswerRows) -> dict[str, Any]:
    """What a model is called with to predict the answers: all of the rows but their last answer tokens and the end.

    Raises:
        ValueError: rows are padded, and the model takes no positions, so that it would answer differently; or it has
            too few positions.
    """
    token_ids, shown = rows.token_ids[:, :-2], None if rows.shown is None else rows.shown[:, :-2]
    longest = token_ids.shape[1] if shown is None else int(shown.sum(1).max())
    room = getattr(model.config, "max_position_embeddings", None)
    if isinstance(room, int) and 0 < room < longest:
        raise ValueError(f"rows: {longest} tokens come before an answer's end, but the model has {room} positions")
    more = {} if shown is None else padded_inputs(model, shown.to(model.device))
    return {"input_ids": token_ids.to(model.device), **more}


def _targets(rows: AnswerRows, predicted: int) -> Tensor:
    """The tokens that the last shown positions predict, (B, K); :data:`IGNORED` where that is part of the prompt."""
    targets = rows.token_ids.masked_fill(~rows.answer, IGNORED)
    return targets[:, -1 - predicted : -1]


def answer_loss(model: PreTrainedModel, rows: AnswerRows) -> Tensor:
    """Mean cross-entropy (nats) of all tokens of the answers, each after the right tokens before it.

    For answers of one token it is :func:`~ftmech_hf.training.objectives.answer_only_loss`.
    """
    predicted = int(rows.lengths.max())
    settings = {} if rows.pad is None else {"use_cache": False}
    logits = model(**answer_inputs(model, rows), logits_to_keep=predicted, **settings).logits[:, -predicted:]
    targets = _targets(rows, predicted).to(logits.device)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def given_answers(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = BATCH) -> Tensor:
    """The most likely token at every place of the answers after the right tokens before it, (B, K), on the CPU.

    Answers stand at the end of the last axis; before a shorter one is :data:`IGNORED`. The first of the tokens is the
    first that greedy decoding writes; all of them are, up to the first that is wrong.
    """
    predicted = int(rows.lengths.max())
    found = []
    for part in rows.split(max(1, batch_size // predicted)):
        # Nothing is generated, and with a cache keys are copies that round differently on some processors.
        inputs = answer_inputs(model, part.without_empty_columns())
        logits = model(**inputs, logits_to_keep=predicted, use_cache=False).logits[:, -predicted:]
        tokens = logits.float().argmax(-1).cpu()
        found.append(tokens.masked_fill(_targets(part, predicted).cpu() == IGNORED, IGNORED))
    return torch.cat(found)


def gives_answer(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = BATCH) -> Tensor:
    """Whether a model's greedy decoding begins with the answer, bool (B,) on the CPU.

    It does if every token of the answer is the most likely one after the right tokens before it, which takes one
    forward pass. What would follow the answer does not count.
    """
    expected = _targets(rows, int(rows.lengths.max())).cpu()
    return (given_answers(model, rows, batch_size=batch_size) == expected).all(1)


@torch.no_grad()
def prefers_answer(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = CHOICES) -> Tensor:
    """Whether a model finds the first token of the answer more likely than that of the other one, bool (B,).

    Rows of like length go together, so that little of a batch is padding.

    Raises:
        ValueError: the rows have no other answers.
    """
    if rows.other is None:
        raise ValueError("rows: expected another answer to each, to choose between two")
    rows = rows.first_tokens()
    order = torch.arange(len(rows)) if rows.shown is None else rows.shown.sum(1).argsort(stable=True).cpu()
    found = []
    for part in rows[order].split(batch_size):
        assert part.other is not None
        inputs = answer_inputs(model, part.without_empty_columns())
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float().cpu()
        answer, other = (each.cpu()[:, None] for each in (part.token_ids[:, -2], part.other))
        found.append((logits.gather(1, answer) > logits.gather(1, other))[:, 0])
    return torch.cat(found)[order.argsort()]
