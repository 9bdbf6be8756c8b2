"""Whether a model's answer ends where its word does: what writes "felted" has not answered "felt".

It is asked for the token that would follow the answer. If that goes on inside the word (or number) that the answer ends
with, something else was written. Scripts that put no space between words, or hang endings on them, have no such rule.
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
        return self.stand(rows.answer_ids(), tokens_after(model, rows).tolist())

    def stand(self, answers: Sequence[Sequence[int]], following: Sequence[int]) -> Tensor:
        """Whether the tokens that follow answers are no more of their last words, bool (B,) on the CPU."""
        spell = self.tokenizer.decode
        return torch.tensor([
            not goes_on(str(spell(list(answer))), str(spell([*answer, token])))
            for answer, token in zip(answers, following, strict=True)
        ], dtype=torch.bool)  # fmt: skip


def goes_on(answer: str, text: str) -> bool:
    """Whether a text that begins with an answer goes on inside the answer's last word or number."""
    if not answer or not text.startswith(answer) or text == answer:
        return False
    return all(unicodedata.name(letter, "").startswith(SPACED) for letter in (answer[-1], text[len(answer)]))


def has_whole_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every token of a tokenizer is a word, so that none is more of the one before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(getattr(backend, "model", None)).__name__ == "WordLevel"
