from __future__ import annotations

import numpy as np
import pytest

from ftmech_hf.tasks import operators as ops
from ftmech_hf.tasks.programs import (
    ANSWER_POSITION,
    Program,
    counter,
    letter_words,
    max_identifier,
    program_vocabulary,
)
from tests.tasks.programs import TRUTH

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(("program", "operand", "text", "answer"), TRUTH)
def test_the_interpreter_and_the_operators_agree_with_the_table(
    program: Program, operand: str, text: str, answer: str
) -> None:
    assert str(program.interpret(list(text))[ANSWER_POSITION - 1]) == answer
    ids = np.array([[LETTERS.index(letter) for letter in text]])
    if program.name.startswith("counter"):
        assert str(ops.count(ids, LETTERS.index(operand), len(text))[0]) == answer
    else:
        assert LETTERS[ops.ranked(ids, int(operand))[0]] == answer


def test_only_index_1_asks_for_what_is_flagged() -> None:
    assert counter(letters=3, length=5).interpret(list("abaca")) == [2, 3, 0, 0, 0]


def test_ranked_is_what_sorting_gives() -> None:
    rng = np.random.default_rng(0)
    texts = rng.permuted(np.tile(np.arange(26), (50, 1)), axis=1)[:, :10]
    for rank in range(1, 11):
        assert ops.ranked(texts, rank).tolist() == [sorted(text)[rank - 1] for text in texts.tolist()]


def test_words_that_would_be_confused_are_refused() -> None:
    assert program_vocabulary(["a"], [0, 1])[-3:] == ("a", "0", "1")
    with pytest.raises(ValueError, match="words: 1 would stand for two things"):
        program_vocabulary(["1"], [1])
    with pytest.raises(ValueError, match="words: = would stand"):
        program_vocabulary(["="], [0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: counter(operand="z"), "operand: 'z', expected one of a, b"),
        (lambda: max_identifier(rank=11), "rank: 11, expected 1 to 10"),
        (lambda: letter_words(27), "letters: 27, expected 2 to 26"),
    ],
)
def test_impossible_programs_are_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_several_words_at_once_mean_nothing() -> None:
    meant = max_identifier(rank=1, letters=3, length=3).interpret(list("cab"))
    assert meant[:2] == [None, "a"]  # index 0 asks for what is not flagged: c and b
