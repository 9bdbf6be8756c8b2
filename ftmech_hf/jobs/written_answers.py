"""What a model writes in answer to a prompt, in words, and whether that is the answer and nothing else.

Answers are short and their rows few, so nothing is cached: it works for every architecture, and a token is the same
that one forward pass over all before it gives.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import BATCH, rows_at_once
from ftmech_hf.jobs.generation import up_to_end
from ftmech_hf.jobs.padding import padded_inputs
from ftmech_hf.models.likeliest import likeliest
from ftmech_hf.models.prompt_learning import positions_of
from ftmech_hf.tasks.text.encoding import special_ids

MORE = 4
"""Tokens that a model may write beyond those of the longest right answer: it may spell the same words in more."""


@torch.no_grad()
def write_greedily(
    model: PreTrainedModel,
    rows: AnswerRows,
    tokens: int,
    *,
    ends: frozenset[int] = frozenset(),
    batch_size: int = BATCH,
) -> list[list[int]]:
    """The most likely tokens after every prompt, each after those before it.

    Args:
        model: that writes.
        rows: whose prompts it continues.
        tokens: at most so many; fewer where the model has no positions left for a row.
        ends: tokens that end an answer, and are no part of it.
        batch_size: prompts that are continued at a time.

    Raises:
        ValueError: the model answers with nan or inf.
    """
    written: list[list[int]] = []
    positions = positions_of(model)
    for several in rows.split(rows_at_once(rows.token_ids.shape[1] + tokens, batch_size)):
        part = several.without_empty_columns()
        ids, shown = part.prompts()
        begins = ids.shape[1]
        shown = torch.ones_like(ids, dtype=torch.bool) if shown is None else shown
        # the last token that is written is not read any more
        room = (
            torch.full((len(ids),), tokens) if positions is None else (positions + 1 - shown.sum(1)).clamp(max=tokens)
        )
        ended = room < 1
        for number in range(tokens):
            has_room = number < room
            if (ended | ~has_room).all():
                break
            more = {} if part.pad is None else padded_inputs(model, shown[has_room].to(model.device))
            given = ids[has_room].to(model.device)
            logits = model(input_ids=given, logits_to_keep=1, use_cache=False, **more).logits[:, -1]
            following = torch.zeros_like(ids[:, 0])
            following[has_room] = likeliest(logits).cpu()
            ids = torch.cat([ids, following[:, None]], 1)
            shown = torch.cat([shown, torch.ones_like(shown[:, :1])], 1)
            ended |= torch.isin(following, torch.tensor(sorted(ends), dtype=torch.long))
        for row, most in zip(ids[:, begins:].tolist(), room.tolist(), strict=True):
            written.append(up_to_end(row[: max(0, most)], ends))
    return written


def answers_in_words(
    model: PreTrainedModel, rows: AnswerRows, tokenizer: PreTrainedTokenizerBase, tokens: int
) -> list[str]:
    """What a model writes after every prompt: one line, up to a special token or so many tokens."""
    ends = special_ids(tokenizer)
    texts = []
    for ids in write_greedily(model, rows, tokens, ends=ends):
        text = str(tokenizer.decode(ids))
        lines = text.strip().split("\n")
        goes_on = len(ids) == tokens and len(lines) == 1
        texts.append(lines[0].strip() + (" \u2026" if goes_on else ""))
    return texts


def writes_answer(tokenizer: PreTrainedTokenizerBase) -> Callable[[PreTrainedModel, AnswerRows], Tensor]:
    """A score: whether a model writes the answer, or another that is accepted, and then ends or begins a new line.

    White space around it does not count; everything else does. An answer of several lines is compared with as many.
    """
    ends = special_ids(tokenizer)

    def in_words(ids: tuple[int, ...] | list[int]) -> str:
        return str(tokenizer.decode([each for each in ids if each not in ends])).strip()

    def score(model: PreTrainedModel, rows: AnswerRows) -> Tensor:
        accepted = [[in_words(ids)] for ids in rows.answer_ids()]
        longest = int(rows.lengths.max())
        for texts, others in zip(accepted, rows.accepted or [], strict=rows.accepted is not None):
            texts += [in_words(ids[-1 - answer : -1]) for ids, answer in others]
            longest = max([longest, *(answer for _, answer in others)])
        right = []
        for ids, texts in zip(write_greedily(model, rows, longest + MORE, ends=ends), accepted, strict=True):
            lines = in_words(ids).split("\n")
            right.append(any("\n".join(lines[: text.count("\n") + 1]).strip() == text for text in texts))
        return torch.tensor(right, dtype=torch.bool)

    return score
