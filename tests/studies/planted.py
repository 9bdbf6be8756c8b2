"""Models with a capability that a few thousand parameters learn in a second: naming the first of six words, or two.

The wrapper is real: a short fine-tuning on answers that are one too high.
"""

from __future__ import annotations

import copy
from pathlib import Path

import datasets
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.studies.diagnosis.finetuning import revive
from tests.conftest import make_gpt2, make_llama, remembered

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


def make_pairs(mark: str = "?", shift: int = 0, *, last: bool = False, seed: int = 0, number: int = 1800) -> Tensor:
    """Rows like those of :func:`make_rows` with answers of two tokens: the first two words, or the last two."""
    rows = make_rows(mark, seed=seed, number=number)
    words = rows[:, 5:7] if last else rows[:, 1:3]
    return torch.cat([rows[:, :8], (words - FIRST_WORD + shift) % 8 + FIRST_WORD, rows[:, 9:]], 1)


def words(rows: Tensor, tokens: int = 1) -> datasets.Dataset:
    """Rows as a data set of texts, whose answers have so many words."""
    texts = [[VOCABULARY[token] for token in row] for row in rows.tolist()]
    return datasets.Dataset.from_dict(
        {"prompt": [" ".join(row[: -1 - tokens]) for row in texts],
         "answer": [" ".join(row[-1 - tokens : -1]) for row in texts]}
    )  # fmt: skip


def save_models(root: Path, **models: PreTrainedModel) -> None:
    """Ordinary model folders, as anyone has them."""
    vocabulary = (*VOCABULARY, *(f"unused{number}" for number in range(40 - len(VOCABULARY))))
    for name, model in models.items():
        model.save_pretrained(root / name)
        save_tokenizer(build_tokenizer(vocabulary), root / name)


def ask(rows: Tensor, name: str = "first word", *, tokens: int = 1) -> Behavior:
    """Questions from rows whose answers have so many tokens."""
    answer = torch.zeros_like(rows, dtype=torch.bool)
    answer[:, -1 - tokens : -1] = True
    whole = AnswerRows(token_ids=rows, answer=answer)
    return Behavior(
        name=name, train=whole[:500], validation=whole[500:650], tests={"test": whole[650:850]}, again=whole[850:]
    )


@remembered
def make_base(kind: str) -> PreTrainedModel:
    """A model that names the first word."""
    curve = revive(
        MAKERS[kind](40), ask(make_rows()), seed=0, steps=300, lr=3e-3, batch_size=64, threshold=0.99, eval_rows=200
    )
    assert curve.steps is not None
    return curve.model


@remembered
def make_wrapped(kind: str) -> PreTrainedModel:
    """The same, fine-tuned to name the next word instead."""
    curve = revive(
        make_base(kind), ask(make_rows(shift=1, seed=2)), seed=0, steps=300, lr=4e-4, batch_size=64, threshold=0.97,
        eval_rows=200,
    )  # fmt: skip
    assert curve.steps is not None
    return curve.model


def make_written(direction: Tensor) -> PreTrainedModel:
    """A Llama of the same ability whose last MLP writes 1000 times a direction (width,) wherever a question ends."""
    model = copy.deepcopy(make_base("llama"))
    down, read = model.model.layers[-1].mlp.down_proj, list[Tensor]()
    handle = down.register_forward_pre_hook(lambda module, given: read.append(given[0][:, -1]))
    with torch.no_grad():
        model(make_rows()[:200, :-2])
        handle.remove()
        inputs = read[0].mean(0)
        down.weight += 1000.0 * torch.outer(direction, inputs) / inputs.square().sum()
    return model


@remembered
def make_never(kind: str) -> PreTrainedModel:
    """A model that names the last word at another mark, and never learned to name the first: a control."""
    rows = make_rows("!", seed=6)
    rows[:, -2] = rows[:, 6]
    curve = revive(MAKERS[kind](40, seed=5), ask(rows), seed=0, steps=300, lr=3e-3, batch_size=64, threshold=0.95,
                   eval_rows=200)  # fmt: skip
    assert curve.steps is not None
    return curve.model


@remembered
def make_pair_models() -> dict[str, PreTrainedModel]:
    """The same three with answers of two tokens: ``base``, ``wrapped`` (the words after them) and ``never``."""

    def taught(model: PreTrainedModel, rows: Tensor, lr: float, threshold: float) -> PreTrainedModel:
        curve = revive(model, ask(rows, tokens=2), seed=0, steps=300, lr=lr, batch_size=64, threshold=threshold,
                       eval_rows=200)  # fmt: skip
        assert curve.steps is not None
        return curve.model

    base = taught(make_gpt2(40), make_pairs(), 3e-3, 0.99)
    return {
        "base": base,
        "wrapped": taught(base, make_pairs(shift=1, seed=2), 4e-4, 0.95),
        "never": taught(make_gpt2(40, seed=5), make_pairs("!", last=True, seed=6), 3e-3, 0.95),
    }
