"""Variables of programs are what RASP's own evaluator says; exchanged ones give the answers that one can work out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ftmech_hf.tasks.programs import Program
from ftmech_hf.tasks.small_programs import SMALL_PROGRAMS
from ftmech_hf.tasks.variables import Variables


@pytest.mark.parametrize("program", SMALL_PROGRAMS.values(), ids=SMALL_PROGRAMS)
def test_a_program_means_what_its_evaluator_says(program: Program) -> None:
    drawn = np.random.default_rng(1).integers(len(program.words), size=(12, program.max_length))
    texts = [tuple(program.words[word] for word in text) for text in drawn.tolist()]
    variables = Variables(program.build(), texts)
    assert program.answer_position is not None
    meant = [program.interpret(text) for text in texts]
    for position in range(program.max_length):
        expected = [values[position] for values in meant]
        found = variables.answers(position)
        assert [(type(each), each) for each in found] == [(type(each), each) for each in expected]
    answers = variables.answers(program.answer_position - 1)
    assert len({str(answer) for answer in answers} - {"None"}) > 1, "it has more than one answer"


def test_the_programs_are_of_many_shapes() -> None:
    assert len(SMALL_PROGRAMS) >= 40
    assert len({(len(program.words), program.max_length) for program in SMALL_PROGRAMS.values()}) > 8


def ask(name: str, texts: list[str]) -> Variables:
    return Variables(SMALL_PROGRAMS[name].build(), [tuple(text) for text in texts])


def test_an_exchanged_variable_decides_what_depends_on_it() -> None:
    texts = ask("first_beside_count", ["abca", "bccb"])
    order = np.array([1, 0])
    assert texts.answers(2) == ["a", "b"]
    assert texts.exchanged(["needed"], 2, order)["answer"].at(2) == ["b", "a"]
    assert texts.exchanged(["needed"], 1, order)["answer"].at(2) == ["a", "b"], "at another position"
    assert texts.exchanged(["idle"], 2, order)["answer"].at(2) == ["a", "b"], "not needed"
    assert texts.exchanged(["idle"], 2, order)["idle"].at(2) == [0, 2], "but exchanged"
    assert texts.exchanged(["needed", "idle"], 2, order)["answer"].at(2) == ["b", "a"]


def test_an_exchange_goes_through_selectors_and_what_is_selected() -> None:
    """A flag that is set elsewhere selects another word, two of them nothing; a hop leads where its pointer does."""
    texts = ask("smallest_word", ["bcdd", "dcba"])
    order = np.array([1, 0])
    assert texts.answers(1) == ["b", "a"]
    assert texts.exchanged(["flag"], 0, order)["answer"].at(1) == [None, None]  # none; a and d
    assert texts.exchanged(["flag"], 3, order)["answer"].at(1) == [None, None]
    assert texts.exchanged(["beyond"], 1, order)["answer"].at(1) == ["b", "a"], "not the smallest in either"
    hops = Variables(SMALL_PROGRAMS["follow_twice"].build(), [(3, 2, 3, 1), (0, 0, 0, 2)])
    assert hops.answers(1) == [1, 0]  # at index 1 stands 2, where that leads stands 3, and there 1
    assert hops.exchanged(["answer_hop_0"], 1, order)["answer"].at(1) == [3, 2]  # it leads to 0, the other's to 3


def test_programs_that_cannot_be_asked_are_refused() -> None:
    texts = ask("first_beside_count", ["abca", "bccb"])
    with pytest.raises(ValueError, match="exchange: 'neded' is no variable of the program: indices, tokens"):
        texts.evaluate({"neded": (0, np.array([1, 0]), texts.evaluate()["needed"])})

    def build() -> Any:
        from tracr.rasp import rasp

        flag = rasp.Map(lambda word: word == "a", rasp.tokens).named("flag")
        return rasp.SequenceMap(lambda each, word: not each, flag, rasp.tokens).named("flag")

    with pytest.raises(ValueError, match="program: two of its expressions are named 'flag'"):
        Variables(build(), [tuple("ab")]).evaluate()


def test_a_causal_program_sees_what_is_behind() -> None:
    program = SMALL_PROGRAMS["count_a"]
    assert Variables(program.build(), [tuple("abaab")], causal=True).evaluate()["answer"].codes.tolist() == [
        [1, 1, 2, 3, 3]
    ]
