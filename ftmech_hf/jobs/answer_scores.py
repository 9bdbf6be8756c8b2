"""How well a model gives answers of any number of tokens: a loss to differentiate, and scores of every row."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.padding import padded_inputs
from ftmech_hf.models.likeliest import check_numbers, likeliest
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.training.objectives import IGNORED

Ends = Callable[[PreTrainedModel, AnswerRows], Tensor]
"""Whether what a model would write after the answers lets them stand, (B,)."""

BATCH = 256
"""Answers that are scored at a time; fewer of longer ones, so that their logits take no more memory."""

TOKENS = 2**15
"""Tokens of a forward pass at most, so that long prompts take no more memory either."""

CHOICES = 64
"""Choices between two answers at a time: whole stories may stand before them."""


def rows_at_once(tokens: int, most: int) -> int:
    """At most how many rows of so many tokens are read at a time, so that they are no more than :data:`TOKENS`."""
    return max(1, min(most, TOKENS // tokens))


def answer_inputs(model: PreTrainedModel, rows: AnswerRows) -> dict[str, Any]:
    """What a model is called with to predict the answers: all of the rows but their last answer tokens and the end.

    Raises:
        ValueError: rows are padded, and the model takes no positions, so that it would answer differently; or it has
            too few positions.
    """
    token_ids, shown = rows.token_ids[:, :-2], None if rows.shown is None else rows.shown[:, :-2]
    longest = token_ids.shape[1] if shown is None else int(shown.sum(1).max())
    room = positions_of(model)
    if room is not None and room < longest:
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
def _predictions(model: PreTrainedModel, rows: AnswerRows, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits (b, K, V) on the model's device, targets (b, K) on the CPU) of the places of answers, part by part.

    Answers stand at the end of the second axis; before a shorter one targets are :data:`IGNORED`.
    """
    predicted = int(rows.lengths.max())
    for part in rows.split(rows_at_once(rows.token_ids.shape[1], batch_size // predicted)):
        # Nothing is generated, and with a cache keys are copies that round differently on some processors.
        # As many places as the longest answer has, also where all of a part is shorter; the end is never read.
        inputs = answer_inputs(model, part.without_empty_columns(predicted + 2))
        logits = model(**inputs, logits_to_keep=predicted, use_cache=False).logits[:, -predicted:]
        yield logits.float(), _targets(part, predicted).cpu()


def given_answers(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = BATCH) -> Tensor:
    """The most likely token at every place of the answers after the right tokens before it, (B, K), on the CPU.

    Answers stand at the end of the last axis; before a shorter one is :data:`IGNORED`. The first of the tokens is the
    first that greedy decoding writes; all of them are, up to the first that is wrong.

    Raises:
        ValueError: the model answers with nan or inf.
    """
    return torch.cat([_given(*each) for each in _predictions(model, rows, batch_size)])


def answer_rows(model: PreTrainedModel, rows: AnswerRows) -> AnswerRows:
    """The same questions with as many tokens as the right answers have, each the most likely one to the model."""
    token_ids, longest = rows.token_ids.clone(), int(rows.lengths.max())
    place = rows.answer.cumsum(1)  # 1 for the first token of an answer
    for number in range(1, longest + 1):
        written = torch.zeros_like(token_ids)
        written[:, -1 - longest : -1] = given_answers(model, dataclasses.replace(rows, token_ids=token_ids))
        token_ids = torch.where(rows.answer & (place == number), written, token_ids)
    return dataclasses.replace(rows, token_ids=token_ids)


def answer_log_probabilities(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = BATCH) -> Tensor:
    """Log-probability (nats) of every token of the answers after the right tokens before it, (B, K), on the CPU.

    Answers stand at the end of the last axis; before a shorter one is NaN. The sum over a row is the log-probability
    that the model goes on with the answer; what would follow the answer does not count.

    Raises:
        ValueError: one is nan or infinite.
    """
    return torch.cat([_likely(*each) for each in _predictions(model, rows, batch_size)])


def written_answers(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = BATCH) -> tuple[Tensor, Tensor]:
    """:func:`given_answers` and :func:`answer_log_probabilities` in one pass."""
    found = [(_given(*each), _likely(*each)) for each in _predictions(model, rows, batch_size)]
    given, likely = (torch.cat(each) for each in zip(*found, strict=True))
    return given, likely


def _given(logits: Tensor, targets: Tensor) -> Tensor:
    return likeliest(logits, targets != IGNORED).cpu().masked_fill(targets == IGNORED, IGNORED)


def _likely(logits: Tensor, targets: Tensor) -> Tensor:
    chosen = logits.gather(-1, targets.clamp(min=0).to(logits.device)[..., None])[..., 0] - logits.logsumexp(-1)
    chosen = chosen.cpu()
    check_numbers(chosen[targets != IGNORED])  # elsewhere nan says that no answer stands there
    return chosen.masked_fill(targets == IGNORED, torch.nan)


def gives_answer(
    model: PreTrainedModel, rows: AnswerRows, *, ends: Ends | None = None, batch_size: int = BATCH
) -> Tensor:
    """Whether a model's greedy decoding begins with the answer, bool (B,) on the CPU.

    It does if every token of the answer is the most likely one after the right tokens before it, which takes one
    forward pass. Where several answers are accepted, any of them will do.

    Args:
        model: that is asked.
        rows: with one or more right answers.
        ends: whether what would follow the answers lets them stand, of some rows; without it, that does not count.
        batch_size: answers that are scored at a time.
    """
    expected = _targets(rows, int(rows.lengths.max())).cpu()
    right = (given_answers(model, rows, batch_size=batch_size) == expected).all(1)
    if ends is not None and right.any():
        right[right.clone()] = ends(model, rows[right.nonzero()[:, 0]])
    others, owners = rows.written("accepted", (~right).nonzero()[:, 0].tolist())
    if len(others):
        right[owners[gives_answer(model, others, ends=ends, batch_size=batch_size)]] = True
    return right


@torch.no_grad()
def tokens_after(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = BATCH) -> Tensor:
    """The most likely token after every prompt and answer, (B,), on the CPU; the row's end where no place is left."""
    found = rows.token_ids[:, -1].cpu().clone()
    room = positions_of(model)
    tokens = torch.full_like(found, rows.token_ids.shape[1]) if rows.shown is None else rows.shown.sum(1).cpu()
    fits = tokens - 1 <= room if room is not None else torch.ones_like(found, dtype=torch.bool)
    places = fits.nonzero()[:, 0]
    for at in places.split(rows_at_once(rows.token_ids.shape[1], batch_size)) if len(places) else ():
        part = rows[at].without_empty_columns()
        more = {} if part.shown is None else padded_inputs(model, part.shown[:, :-1].to(model.device))
        ids = part.token_ids[:, :-1].to(model.device)
        following = model(input_ids=ids, logits_to_keep=1, use_cache=False, **more).logits[:, -1]
        found[at] = likeliest(following).cpu()
    return found


def choice_scores(
    model: PreTrainedModel, rows: AnswerRows, *, per_token: bool = True, batch_size: int = BATCH
) -> list[Tensor]:
    """Of every row, how likely the model finds each of its choices: a log-probability in nats each.

    Args:
        model: that is asked.
        rows: with choices, which may differ in number.
        per_token: the mean over a choice's tokens, so that long ones have no disadvantage; else the sum.
        batch_size: answers that are scored at a time.

    Raises:
        ValueError: the rows have no choices.
    """
    if rows.choices is None:
        raise ValueError("rows: expected choices of each")
    written, _ = rows.written("choices", range(len(rows)))
    found = answer_log_probabilities(model, written, batch_size=batch_size)
    scores = found.nanmean(1) if per_token else found.nansum(1)
    return list(scores.split([len(each) for each in rows.choices]))


def chooses_answer(
    model: PreTrainedModel, rows: AnswerRows, *, per_token: bool = True, batch_size: int = BATCH
) -> Tensor:
    """Whether a model finds the right choice the most likely, bool (B,); see :func:`chosen_places`.

    Args:
        model, rows, per_token, batch_size: as for :func:`choice_scores`.
    """
    assert rows.right is not None
    return chosen_places(model, rows, per_token=per_token, batch_size=batch_size) == rows.right.cpu()


def chosen_places(
    model: PreTrainedModel, rows: AnswerRows, *, per_token: bool = True, batch_size: int = BATCH
) -> Tensor:
    """Which of its choices a model finds the most likely, for every row, (B,).

    Several may be equally likely, to a model in half precision often: then a coin chooses, see :func:`drawn_of`.

    Args:
        model, rows, per_token, batch_size: as for :func:`choice_scores`.
    """
    scores = choice_scores(model, rows, per_token=per_token, batch_size=batch_size)
    assert rows.choices is not None
    return torch.tensor([
        drawn_of((each == each.max()).nonzero()[:, 0].tolist(), [whole.token_ids for whole in wholes])
        for each, wholes in zip(scores, rows.choices, strict=True)
    ])  # fmt: skip


def drawn_of(places: Sequence[int], texts: Sequence[Sequence[int]]) -> int:
    """One of some places by the token ids that stand there: of the same texts the same, in whatever order they are.

    So who is asked for A or B, and is indifferent, is right half of the time, however the answers are arranged.
    """
    return min(places, key=lambda place: hashlib.sha256(repr(list(map(int, texts[place]))).encode()).digest())


@torch.no_grad()
def prefers_answer(model: PreTrainedModel, rows: AnswerRows, *, batch_size: int = CHOICES) -> Tensor:
    """Whether a model finds the first token of the answer more likely than that of the other one, bool (B,).

    Where it finds both equally likely, to half of such rows, see :func:`drawn_of`. Rows of like length go together, so
    that little of a batch is padding.

    Raises:
        ValueError: the rows have no other answers, or the model answers with nan or inf.
    """
    if rows.other is None:
        raise ValueError("rows: expected another answer to each, to choose between two")
    rows = rows.first_tokens()
    order = torch.arange(len(rows)) if rows.shown is None else rows.shown.sum(1).argsort(stable=True).cpu()
    found = []
    for part in rows[order].split(rows_at_once(rows.token_ids.shape[1], batch_size)):
        assert part.other is not None
        inputs = answer_inputs(model, part.without_empty_columns())
        logits = model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float().cpu()
        answer, other = (each.cpu()[:, None] for each in (part.token_ids[:, -2], part.other))
        scores = logits.gather(1, torch.cat([answer, other], 1))
        check_numbers(scores)
        prefers = scores[:, 0] > scores[:, 1]
        for row in (scores[:, 0] == scores[:, 1]).nonzero()[:, 0].tolist():
            asked = part[[row]].without_empty_columns().token_ids[0, :-2].tolist()
            prefers[row] = drawn_of([0, 1], [[*asked, int(answer[row])], [*asked, int(other[row])]]) == 0
        found.append(prefers)
    return torch.cat(found)[order.argsort()]
