from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ftmech_hf.tasks import operators as ops
from ftmech_hf.tasks.programs import (
    ANSWER_POSITION,
    Program,
    counter,
    letter_words,
    max_identifier,
)
from ftmech_hf.tasks.schema import SPECIAL_TOKENS
from ftmech_hf.tasks.spelling import spell
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


def test_every_value_has_a_word_of_its_own() -> None:
    assert spell(["a"], [0, 1]).vocabulary[-3:] == ("a", "0", "1")
    assert spell(["a", "b"], ["b", "c"]).vocabulary[-3:] == ("a", "b", "c")  # an output that is an input
    assert spell([0, 1], [False, True, 1.0, 1]).vocabulary[-5:] == ("0", "1", "False", "True", "1.0")
    assert spell(["1"], [1, 2]).vocabulary[-3:] == ("1", "int(1)", "2")
    assert spell([1], ["1", ("a", 1)]).vocabulary[-3:] == ("1", "'1'", "('a', 1)")
    words = spell(["=", "b"], [True, "=", "<pad>"])
    assert [words.vocabulary[token] for token in words.inputs] == ["=", "b"]
    assert [words.vocabulary[token] for token in words.outputs] == ["True", "=", "'<pad>'"]
    assert words.vocabulary[: len(SPECIAL_TOKENS)] == SPECIAL_TOKENS


@pytest.mark.parametrize("inputs", [["1", 1], ["<bos>"], ["a", "<pad>"]])
def test_inputs_that_would_be_confused_are_refused(inputs: list[object]) -> None:
    with pytest.raises(ValueError, match=r"words: .* would stand for two things; give the program other words"):
        spell(inputs, [0])


def make_program(make: Callable[[Any], Any], words: tuple[Any, ...]) -> Program:
    def build() -> Any:
        from tracr.rasp import rasp

        return make(rasp)

    return Program("program", words, 3, build)


@pytest.mark.parametrize(
    ("make", "words", "text", "meant"),
    [
        (lambda rasp: rasp.tokens == 1, (0, 1), [0, 1], [False, True]),
        (lambda rasp: rasp.tokens / 2, (1, 2), [1, 2], [0.5, 1.0]),
        (lambda rasp: 1 / rasp.tokens, (0, 2), [2, 0], [0.5, None]),
        (lambda rasp: 1 / rasp.tokens + rasp.indices, (0, 2), [2, 0, 2], [0.5, None, 2.5]),
        # several: equal words are that word, a mean of others is none; the mean of numbers is a number
        (lambda rasp: rasp.Aggregate(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ), rasp.tokens),
         (1, 2), [1, 2, 1], [1, 2, 1]),
        (lambda rasp: rasp.Aggregate(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.LEQ), rasp.tokens),
         (1, 3), [1, 3], [1, None]),
        (lambda rasp: rasp.numerical(rasp.Aggregate(
            rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ), rasp.numerical(rasp.Map(int, rasp.tokens)),
            default=0)), (0, 1), [1, 0, 0, 1], [1, 0.5, 1 / 3, 0.5]),
        # what has no meaning neither selects nor is selected
        (lambda rasp: rasp.SelectorWidth(rasp.Select(1 / rasp.tokens, rasp.tokens, lambda key, query: key != query)),
         (0, 2), [0, 2, 2], [2, 2, 2]),
    ],
)  # fmt: skip
def test_what_programs_mean(
    make: Callable[[Any], Any], words: tuple[Any, ...], text: list[Any], meant: list[Any]
) -> None:
    found = make_program(make, words).interpret(text)
    assert [(type(value), value) for value in found] == [(type(value), value) for value in meant]


def test_the_values_a_program_may_have_are_told_apart_by_type() -> None:
    values = make_program(lambda rasp: (rasp.tokens == "a") & rasp.indices, ("b", "a")).output_values()
    assert [repr(value) for value in values] == ["False", "0", "1", "2"]
    values = make_program(lambda rasp: rasp.tokens / rasp.indices, (1, 2)).output_values()
    assert values == [1.0, 0.5, 2.0]
    assert all(isinstance(value, float) for value in values)
    widths = make_program(lambda rasp: rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, max)), (1, 2))
    values = widths.output_values()
    assert values == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (lambda rasp: rasp.indices + 1, ("a", "b"), "program: program cannot be compiled by tracr: Failed to find"),
        (lambda rasp: 1 / rasp.tokens, (0, 1), "program: program cannot be compiled by tracr: division by zero"),
        (lambda rasp: rasp.tokens, (["a"], "b"), "program: program cannot be compiled by tracr: unhashable"),
        (lambda rasp: rasp.Map(lambda word: word.upper(), rasp.tokens), (1, 2), "cannot be compiled by tracr: 'int'"),
    ],
)
def test_what_tracr_cannot_compile_is_refused_in_one_line(
    make: Callable[[Any], Any], words: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        make_program(make, words).compile()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: counter(operand="z"), "operand: 'z', expected one of a, b"),
        (lambda: max_identifier(rank=11), "rank: 11, expected 1 to 10"),
        (lambda: Program("nothing", (), 3, list), "words: .*, max_length: 3, expected at least one"),
        (lambda: Program("nowhere", ("a",), 0, list), "max_length: 0, expected at least one"),
        (lambda: letter_words(27), "letters: 27, expected 2 to 26"),
    ],
)
def test_impossible_programs_are_refused_by_name(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_several_words_at_once_mean_nothing() -> None:
    meant = max_identifier(rank=1, letters=3, length=3).interpret(list("cab"))
    assert meant[:2] == [None, "a"]  # index 0 asks for what is not flagged: c and b
