"""Programs whose values are of every type: compiled, converted, and held against tracr's model and RASP's own outputs.

Each is tried on every text of its words up to its length, or on 150 of them. tracr's own evaluator is the oracle for
what a program means, wherever it gives something.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from ftmech_hf.activations import TracedModel
from ftmech_hf.models.conversion import convert
from ftmech_hf.tasks.programs import Program
from tests.models.test_compiled import compare, encode

ABC = ("a", "b", "c")


class Case(NamedTuple):
    """A program and how its outputs are written where that is not ``str`` of them."""

    build: Callable[[Any, Any], Any]
    words: tuple[Any, ...] = ABC
    length: int = 3
    causal: bool = False
    written: dict[Any, str] = {}  # noqa: RUF012  # of programs with equal outputs of several types, and of homonyms


def numbered(rasp: Any) -> Any:
    """How many of the words are the one asked about, as a category."""
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ))


def share(rasp: Any, word: Any) -> Any:
    """The share of a word among those up to here, a number."""
    flags = rasp.numerical(rasp.Map(lambda value: int(value == word), rasp.tokens))
    before = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
    return rasp.numerical(rasp.Aggregate(before, flags, default=0))


MIXED = {"a": True, "b": "yes", "c": 1.5, "d": ("x", 1), "e": 3, "f": None}

CASES: dict[str, Case] = {
    # outputs that equal an input, and are of another type
    "booleans of 0 and 1": Case(lambda rasp, lib: rasp.tokens == 1, words=(0, 1)),
    "not of 0, 1 and 2": Case(lambda rasp, lib: ~rasp.tokens, words=(0, 1, 2)),
    "halves of integers": Case(lambda rasp, lib: rasp.tokens / 2, words=(0, 1, 2, 4)),
    "floats of integers": Case(lambda rasp, lib: rasp.tokens * 1.0, words=(1, 2, 3)),
    "integers of floats": Case(lambda rasp, lib: rasp.Map(int, rasp.tokens), words=(1.0, 2.0, 2.5)),
    "integers of booleans": Case(lambda rasp, lib: rasp.tokens + 0, words=(False, True)),
    "counts of booleans": Case(lambda rasp, lib: numbered(rasp), words=(False, True)),
    "quotients": Case(
        lambda rasp, lib: lib.make_nary_sequencemap(
            lambda x, y, z: x * y / z, rasp.indices, rasp.indices, rasp.tokens
        ), words=(1, 2),
    ),
    # outputs that are written like an input, or like a special token
    "integers of their names": Case(
        lambda rasp, lib: rasp.Map(int, rasp.tokens), words=("1", "2"), written={1: "int(1)", 2: "int(2)"}
    ),
    "names of integers": Case(
        lambda rasp, lib: rasp.Map(str, rasp.tokens), words=(1, 2), written={"1": "'1'", "2": "'2'"}
    ),
    "special words": Case(lambda rasp, lib: lib.make_reverse(rasp.tokens), words=("=", "<eos>", "1")),
    "special answers": Case(
        lambda rasp, lib: rasp.Map(lambda word: f"<{word}>", rasp.tokens), words=("pad", "eos"),
        written={"<pad>": "'<pad>'", "<eos>": "'<eos>'"},
    ),
    # equal outputs of several types, which tracr does not tell apart: one word for both
    "equal outputs": Case(
        lambda rasp, lib: rasp.Map({"a": 0, "b": False, "c": 1.0}.get, rasp.tokens), written={0: "0"}
    ),
    "and gives an operand": Case(
        lambda rasp, lib: (rasp.tokens == "a") & rasp.indices, words=("b", "a"), written={0: "False"}
    ),
    "equal inputs": Case(lambda rasp, lib: rasp.tokens + 1, words=(1, True, 2)),
    # other types
    "a mix of types": Case(lambda rasp, lib: rasp.Map(MIXED.get, rasp.tokens), words=tuple(MIXED), length=2),
    "a mix of types, moved": Case(
        lambda rasp, lib: lib.make_reverse(rasp.Map(MIXED.get, rasp.tokens)), words=tuple("abcde"), length=2
    ),
    "words of a mix of types": Case(
        lambda rasp, lib: lib.make_reverse(rasp.tokens), words=(0, "a", 2.5, True), length=2
    ),
    "tuples": Case(lambda rasp, lib: rasp.SequenceMap(lambda x, y: (x, y), rasp.tokens, rasp.indices)),
    "strings": Case(lambda rasp, lib: rasp.SequenceMap(lambda x, y: f"{x}_{y}", rasp.tokens, rasp.indices)),
    "negative numbers": Case(
        lambda rasp, lib: rasp.SequenceMap(lambda x, y: y - x, rasp.tokens, rasp.indices), words=(1, 5)
    ),
    "odd words": Case(lambda rasp, lib: lib.make_reverse(rasp.tokens), words=("new york", "", "é", "a_1")),
    # no output
    "none for a word": Case(lambda rasp, lib: rasp.Map(lambda word: None if word == "a" else word, rasp.tokens)),
    "1 / 0": Case(
        lambda rasp, lib: rasp.Map(lambda number: round(1 / (number - 1), 3), rasp.numerical(numbered(rasp)))
    ),
    "none before the text": Case(lambda rasp, lib: lib.shift_by(1, rasp.tokens)),
    "none passed on": Case(
        lambda rasp, lib: rasp.SequenceMap(lambda x, y: x == y, lib.shift_by(1, rasp.tokens), rasp.tokens)
    ),
    "none selects nothing": Case(
        lambda rasp, lib: rasp.Aggregate(
            rasp.Select(rasp.indices, lib.shift_by(1, rasp.indices), lambda key, query: key == query), rasp.tokens
        )
    ),
    # one output
    "a constant": Case(lambda rasp, lib: rasp.Map(lambda word: 7, rasp.tokens)),
    "a constant that is a word": Case(lambda rasp, lib: rasp.Map(lambda word: "b", rasp.tokens)),
    "the words themselves": Case(lambda rasp, lib: rasp.tokens),
    # several equal values
    "what equal words agree on": Case(
        lambda rasp, lib: rasp.Aggregate(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ), rasp.tokens),
        words=(0, 1, 2),
    ),
    "what equal strings agree on": Case(
        lambda rasp, lib: rasp.Aggregate(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ), rasp.tokens)
    ),
    # numbers
    "numbers of words": Case(lambda rasp, lib: rasp.numerical(rasp.Map(lambda x: x / 4, rasp.tokens)), words=(0, 1, 3)),
    "a share": Case(lambda rasp, lib: share(rasp, "a"), causal=True),
    "a difference of shares": Case(
        lambda rasp, lib: rasp.numerical(rasp.LinearSequenceMap(share(rasp, "a"), share(rasp, "b"), 2, -0.5))
    ),
    "a numerical width": Case(lambda rasp, lib: rasp.numerical(numbered(rasp))),
    "a number of a width": Case(lambda rasp, lib: rasp.numerical(rasp.Map(lambda x: x / 2, numbered(rasp)))),
    "a number turned into words": Case(
        lambda rasp, lib: rasp.Map(lambda x: "many" if x > 1 else "one", rasp.numerical(numbered(rasp)))
    ),
    "has a number": Case(lambda rasp, lib: ~share(rasp, "a"), length=4),
    "dyck of two kinds": Case(lambda rasp, lib: lib.make_shuffle_dyck(["()", "{}"]), words=tuple("(){}"), length=2),
    # compositions
    "is even": Case(lambda rasp, lib: rasp.Map(lambda n: n % 2 == 0, lib.make_count(rasp.tokens, "a"))),
    "palindrome": Case(
        lambda rasp, lib: rasp.SequenceMap(lambda x, y: x == y, lib.make_reverse(rasp.tokens), rasp.tokens)
    ),
    "two patterns": Case(lambda rasp, lib: lib.detect_pattern(rasp.tokens, "ab"), causal=True),
    "sorted floats": Case(
        lambda rasp, lib: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=3, min_key=0.5), words=(0.5, 1.0, 2)
    ),
    "counted before": Case(lambda rasp, lib: numbered(rasp), causal=True),
}  # fmt: skip

FAST = (
    "booleans of 0 and 1", "halves of integers", "integers of their names", "equal outputs", "a mix of types, moved",
    "1 / 0", "none passed on", "a share",
)  # fmt: skip
"""One of each kind; ``make test-slow`` compiles them all, at three seconds each."""


def agrees(program: Program, text: tuple[Any, ...], meant: list[Any]) -> bool:
    """Whether tracr's evaluator says the same wherever something is meant; False where it stops."""
    from tracr.rasp import causal_eval, rasp

    evaluate = causal_eval.evaluate if program.causal else rasp.evaluate
    try:
        original = list(evaluate(program.build(), text))
    except (ArithmeticError, ValueError, TypeError):
        return False
    assert [ours for ours in meant if ours is not None] == [
        theirs for theirs, ours in zip(original, meant, strict=True) if ours is not None
    ]
    return True


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_program_gives_tracrs_numbers_and_rasps_outputs(name: str) -> None:
    case = CASES[name]

    def build() -> Any:
        from tracr.compiler import lib
        from tracr.rasp import rasp

        return case.build(rasp, lib)

    program = Program(name, case.words, case.length, build, causal=case.causal)
    assembled = program.compile()
    model, vocabulary = convert(assembled, program)
    assert len(set(vocabulary)) == len(vocabulary)
    texts = [text for length in range(1, case.length + 1) for text in itertools.product(case.words, repeat=length)]
    if len(texts) > 150:
        texts = [texts[number] for number in np.random.default_rng(0).choice(len(texts), 150, replace=False)]
    compare(assembled, model, vocabulary, [text for text in texts if len(text) == case.length])
    defined, agreed = 0, 0
    for text in texts:
        meant = program.interpret(text)
        agreed += agrees(program, text, meant)
        with torch.no_grad():
            outputs = model(encode(vocabulary, [text])).logits[0, 1:]
        for value, output in zip(meant, outputs, strict=True):
            defined += value is not None
            if value is not None and model.config.output_ids:
                assert vocabulary[int(output.argmax())] == case.written.get(value, str(value)), (text, value)
            elif value is not None:
                assert float(output) == pytest.approx(float(value), abs=1e-4), text
    opened = TracedModel(model)
    assert set(opened.refused) == {"router", "expert_act", "shared_act"}, "it has no experts"
    assert opened.refuses_padding == ""
    assert defined > len(texts) / 2
    assert agreed > 0
    if model.config.output_ids:
        assert {vocabulary[word] for word in model.config.output_ids} == {
            case.written.get(value, str(value)) for value in program.output_values()
        }
