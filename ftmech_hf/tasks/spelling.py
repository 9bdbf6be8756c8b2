"""How the values of a program are written: a word for every input and every output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ftmech_hf.tasks.rasp import identity
from ftmech_hf.tasks.schema import BOS, PAD, SPECIAL_TOKENS


class Words(NamedTuple):
    """How the values of a program are written.

    Attributes:
        vocabulary: special tokens, inputs, and the outputs that are no inputs; no word stands for two values.
        inputs: the token of each input.
        outputs: the token of each output.
    """

    vocabulary: tuple[str, ...]
    inputs: list[int]
    outputs: list[int]


def spell(inputs: Sequence[Any], outputs: Sequence[Any]) -> Words:
    """Give every value of a program a word: ``str`` of it, and one word to an output that is also an input.

    An output is an input if it is the same, not if it equals one: a program on 0 and 1 that answers False and True has
    four words. Where an output is written like something else, it gets another spelling: beside an input "1" the output
    1 is ``int(1)``.

    Raises:
        ValueError: two inputs are written alike, or an input like ``<bos>`` or ``<pad>``.
    """
    vocabulary = list(SPECIAL_TOKENS)
    tokens: dict[tuple[str, str], int] = {}
    spelled: set[str] = {BOS, PAD}
    for value in inputs:
        word = str(value)
        if identity(value) in tokens:
            continue
        if word in spelled:
            raise ValueError(f"words: {word} would stand for two things; give the program other words")
        spelled.add(word)
        if word not in SPECIAL_TOKENS:  # others but <bos> and <pad> mean nothing to a compiled program by themselves
            vocabulary.append(word)
        tokens[identity(value)] = vocabulary.index(word)
    for value in outputs:
        if identity(value) in tokens:
            continue
        spellings = (str(value), repr(value), f"{type(value).__name__}({value!r})")
        free = [each for each in spellings if each not in vocabulary]
        if not free:
            raise ValueError(f"outputs: {value!r} is written like another; give the program other words")
        tokens[identity(value)] = len(vocabulary)
        vocabulary.append(free[0])
    return Words(
        tuple(vocabulary),
        inputs=[tokens[identity(value)] for value in inputs],
        outputs=[tokens[identity(value)] for value in outputs],
    )
