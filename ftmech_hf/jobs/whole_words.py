"""Whether a model's answer ends where its word does: what writes "felted" has not answered "felt".

It is asked for the token that would follow the answer, or for several where they are the bytes of one letter. If that
goes on inside the word (or number) that the answer ends with, something else was written. Scripts that put no space
between words, or hang endings on them, have no such rule.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.answer_scores import gives_answer, tokens_after

SPACED = ("LATIN ", "GREEK ", "CYRILLIC ", "DIGIT ")
"""How Unicode calls letters and digits of which whole words are told by what stands between them."""

HALF, BYTES = "\N{REPLACEMENT CHARACTER}", 4
"""What tokenizers spell where a token is some of the bytes of a letter, and how many bytes a letter has at most."""


@dataclass(frozen=True)
class WritesWords:
    """A score: whether greedy decoding begins with the answer, or another that is accepted, and with no longer word.

    Attributes:
        tokenizer: of the models.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, model: PreTrainedModel, rows: AnswerRows) -> Tensor:
        """Of every row, bool (B,) on the CPU."""
        return gives_answer(model, rows, ends=self.ends)

    def ends(self, model: PreTrainedModel, rows: AnswerRows) -> Tensor:
        """Whether a model that has written the answers goes on with something else than more of their last words."""
        answers = rows.answer_ids()
        written = [[token] for token in tokens_after(model, rows).tolist()]
        for _ in range(BYTES - 1):
            begun = [row for row, each in enumerate(answers) if self._next(each, written[row]) == HALF]
            if not begun:
                break
            longer = _written_on(rows, begun, written)
            for row, token in zip(begun, tokens_after(model, longer).tolist(), strict=True):
                written[row].append(token)
        return self._stand(answers, written)

    def stand(self, answers: Sequence[Sequence[int]], following: Sequence[int]) -> Tensor:
        """Whether the tokens that follow answers are no more of their last words, bool (B,) on the CPU."""
        return self._stand(answers, [[token] for token in following])

    def _stand(self, answers: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> Tensor:
        spell = self.tokenizer.decode
        return torch.tensor([
            not goes_on(str(spell(list(answer))), str(spell([*answer, *tokens])))
            for answer, tokens in zip(answers, written, strict=True)
        ], dtype=torch.bool)  # fmt: skip

    def _next(self, answer: Sequence[int], tokens: Sequence[int]) -> str:
        """The letter after an answer, once some tokens are written; :data:`HALF` if they are not yet all of it."""
        begins = str(self.tokenizer.decode(list(answer)))
        text = str(self.tokenizer.decode([*answer, *tokens]))
        return text[len(begins) :][:1] if text.startswith(begins) else ""


def _written_on(rows: AnswerRows, places: Sequence[int], written: Sequence[Sequence[int]]) -> AnswerRows:
    """The rows at some places, whose answers have more tokens."""
    ids, masks = [], []
    for place in places:
        row = rows.token_ids[place] if rows.shown is None else rows.token_ids[place][rows.shown[place]]
        *before, end = row.tolist()
        length = int(rows.lengths[place]) + len(written[place])
        ids.append([*before, *written[place], end])
        masks.append([False] * (len(ids[-1]) - 1 - length) + [True] * length + [False])
    return AnswerRows.stack(ids, masks, rows.pad)


def goes_on(answer: str, text: str) -> bool:
    """Whether a text that begins with an answer goes on inside the answer's last word or number."""
    if not answer or not text.startswith(answer) or text == answer:
        return False
    return all(unicodedata.name(letter, "").startswith(SPACED) for letter in (answer[-1], text[len(answer)]))


def has_whole_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every token of a tokenizer is a word, so that none is more of the one before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "model", None)).__name__ == "WordLevel"
