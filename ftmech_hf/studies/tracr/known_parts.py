"""Which parts of a compiled program carry its answer: known from the program, without asking the model.

The compiler names every direction of the stream after a variable of the program, so that the weights say which of them
a head or an MLP writes. Whether the answer depends on these variables at a position is asked of the program: they get
the values that they have on another text, and its answer is read again.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.activations.patches import Part
from ftmech_hf.models.compiled import CompiledModel
from ftmech_hf.tasks.programs import Program
from ftmech_hf.tasks.schema import BOS, EOS
from ftmech_hf.tasks.variables import Variables

PAIRS = 4096
"""Pairs of texts at most on which a program is asked; all there are if it has no more."""
WIDTH = "_selector_width_attn_output"
"""What the compiler calls the direction from which an MLP reads the width of a selector."""


class Writer(NamedTuple):
    """A head or an MLP of one layer, at all positions: units ``first`` to ``end`` of a site."""

    site: str
    layer: int
    first: int
    end: int

    def at(self, position: int) -> Part:
        """The part of it at one position."""
        return Part(*self, position)


def find_writers(model: CompiledModel) -> dict[Writer, list[str]]:
    """Heads and MLPs -> the variables that they write, by the weights of a program without noise; none if empty."""
    found = {}
    width = model.config.key_size
    for layer, block in enumerate(model.blocks):
        for head in range(model.config.num_attention_heads):
            first, end = head * width, (head + 1) * width
            columns = block.attn.o_proj.weight[:, first:end]  # type: ignore[union-attr,index]
            found[Writer("head_out", layer, first, end)] = _written(model, columns)
        columns = block.mlp.down_proj.weight  # type: ignore[union-attr]
        found[Writer("mlp_act", layer, 0, columns.shape[1])] = _written(model, columns)  # type: ignore[index,arg-type]
    return found


def _written(model: CompiledModel, columns: Tensor) -> list[str]:
    directions = (columns != 0).any(1).nonzero()[:, 0].tolist()
    return sorted({variable_of(model.config.residual_names[direction]) for direction in directions})


def variable_of(direction: str) -> str:
    """The variable that a direction of the stream is named after: ``count:3`` and its like are ``count``."""
    return direction.split(":")[0].removesuffix(WIDTH)


class Texts(NamedTuple):
    """Texts of a program whose answers have a meaning, as it reads them and as token ids.

    Attributes:
        words: the texts.
        token_ids: whole rows (B, T): ``<bos>``, text, ``<eos>`` twice, of which the first stands for the answer.
    """

    words: list[tuple[Any, ...]]
    token_ids: Tensor


def draw_texts(program: Program, vocabulary: tuple[str, ...], number: int, rng: np.random.Generator) -> Texts:
    """Draw texts of a program's full length."""
    words: list[tuple[Any, ...]] = []
    while len(words) < number:
        drawn = rng.integers(len(program.words), size=(number, program.max_length))
        words += _with_answers(program, [tuple(program.words[word] for word in text) for text in drawn.tolist()])
    words = words[:number]
    ids = [
        [vocabulary.index(word) for word in (BOS, *map(str, text), EOS, EOS)]
        for text in words
    ]  # fmt: skip
    return Texts(words, torch.tensor(ids))


def _with_answers(program: Program, texts: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    answers = Variables(program.build(), texts, causal=program.causal).answers(asked_index(program))
    return [text for text, answer in zip(texts, answers, strict=True) if answer is not None]


def asked_index(program: Program) -> int:
    """The index of the word at which a program answers."""
    assert program.answer_position is not None
    return program.answer_position - 1


def all_pairs(program: Program, rng: np.random.Generator) -> tuple[list[tuple[Any, ...]], NDArray[np.int64]]:
    """Texts of a program, and for each another one: all ordered pairs, or :data:`PAIRS` of them by chance."""
    number = len(program.words) ** program.max_length
    if number * number <= PAIRS:
        texts = _with_answers(program, [*itertools.product(program.words, repeat=program.max_length)])
        order = np.tile(np.arange(len(texts)), len(texts))
        return [text for text in texts for _ in texts], order * len(texts)
    drawn = rng.integers(len(program.words), size=(PAIRS, program.max_length)).tolist()
    texts = _with_answers(program, [tuple(program.words[word] for word in text) for text in drawn])
    return texts, np.roll(np.arange(len(texts)), 1)


def carrying_parts(program: Program, model: CompiledModel, rng: np.random.Generator) -> dict[Part, float]:
    """Every part of a compiled program -> share of pairs of texts in which an exchange of it changes the answer.

    Args:
        program: whose expressions all have names.
        model: what it was compiled to, without noise.
        rng: draws texts of programs that have more than can be asked.
    """
    texts, order = all_pairs(program, rng)
    variables, asked = Variables(program.build(), texts, causal=program.causal), asked_index(program)
    clean = variables.answers(asked)
    found: dict[Part, float] = {}
    for writer, written in find_writers(model).items():
        for position in range(program.max_length):
            share = 0.0
            if written:
                answers = variables.exchanged(written, position, order)["answer"].at(asked)
                share = float(np.mean([now != before for now, before in zip(answers, clean, strict=True)]))
            found[writer.at(position + 1)] = share
    return found
