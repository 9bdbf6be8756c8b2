"""Models with a capability that a few thousand parameters learn in a second: naming the first of six words.

The wrapper is real: a short fine-tuning on answers that are one too high.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.studies.diagnosis.finetuning import revive
from tests.conftest import make_gpt2, make_llama

WORDS = tuple(f"w{number}" for number in range(8))
VOCABULARY = ("<pad>", "<bos>", "<eos>", *WORDS, "?", "!")
FIRST_WORD = VOCABULARY.index("w0")
MAKERS = {"gpt2": make_gpt2, "llama": make_llama}


def make_rows(mark: str = "?", shift: int = 0, *, seed: int = 0, number: int = 1800) -> Tensor:
    """Whole rows ``<bos> SIX WORDS MARK ANSWER <eos>``; the answer is ``shift`` words after the first."""
    words = torch.randint(8, (number, 6), generator=torch.Generator().manual_seed(seed))
    ends = [torch.full((number, 1), VOCABULARY.index(word)) for word in ("<bos>", mark, "<eos>")]
    answer = (words[:, :1] + shift) % 8
    return torch.cat([ends[0], words + FIRST_WORD, ends[1], answer + FIRST_WORD, ends[2]], 1)


def ask(rows: Tensor, name: str = "first word") -> Behavior:
    """Questions from rows."""
    train, validation, test, again = (
        AnswerRows.one_token(part) for part in (rows[:500], rows[500:650], rows[650:850], rows[850:])
    )
    return Behavior(name=name, train=train, validation=validation, tests={"test": test}, again=again)


@functools.cache
def make_base(kind: str) -> PreTrainedModel:
    """A model that names the first word."""
    curve = revive(
        MAKERS[kind](40), ask(make_rows()), seed=0, steps=300, lr=3e-3, batch_size=64, threshold=0.99, eval_rows=200
    )
    assert curve.steps is not None
    return curve.model


@functools.cache
def make_wrapped(kind: str) -> PreTrainedModel:
    """The same, fine-tuned to name the next word instead."""
    curve = revive(
        make_base(kind), ask(make_rows(shift=1, seed=2)), seed=0, steps=300, lr=4e-4, batch_size=64, threshold=0.97,
        eval_rows=200,
    )  # fmt: skip
    assert curve.steps is not None
    return curve.model


@functools.cache
def make_never(kind: str) -> PreTrainedModel:
    """A model that names the last word at another mark, and never learned to name the first: a control."""
    rows = make_rows("!", seed=6)
    rows[:, -2] = rows[:, 6]
    curve = revive(MAKERS[kind](40, seed=5), ask(rows), seed=0, steps=300, lr=3e-3, batch_size=64, threshold=0.95,
                   eval_rows=200)  # fmt: skip
    assert curve.steps is not None
    return curve.model
