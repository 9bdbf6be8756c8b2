"""RASP programs, whose mechanism is known exactly once tracr has compiled them into a transformer's weights.

A :class:`Program` is a function that builds a RASP expression (Weiss et al., arXiv 2106.06981) and the words it runs
on. :meth:`Program.interpret` is what the expression means; :meth:`Program.compile` has tracr (Lindner et al.,
arXiv 2301.05062) turn it into weights, which :mod:`ftmech_hf.models.conversion` turns into a torch model. tracr and jax
are an extra (``pip install "ftmech_hf[tracr]"``) and are imported only when a program is interpreted or compiled: the
two programs of Jain et al. (arXiv 2311.12786, App. B.1) come compiled with this package.

A program of one's own is a function that imports ``tracr.rasp`` and returns an expression:

.. code-block:: python

    def build_last_letter():
        from tracr.rasp import rasp

        last = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == 2)
        return rasp.Aggregate(last, rasp.tokens)

    program = Program("last_letter", words=("a", "b", "c"), max_length=3, build=build_last_letter)
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ftmech_hf.tasks.schema import BOS, PAD, SPECIAL_TOKENS

COMPILER_BOS, COMPILER_PAD = "compiler_bos", "compiler_pad"
"""tracr's own words, which stand for ``<bos>`` and ``<pad>``."""

ANSWER_POSITION = 2
"""Where both programs of the paper give their answer: index 1, and one more because of ``<bos>``.

Their last selector compares a flag of 0 or 1 with the index of the position that asks, so that only index 1 asks for
what is flagged (index 0 asks for the rest, and later ones for nothing).
"""


@dataclass(frozen=True)
class Program:
    """A RASP program and what it runs on.

    Attributes:
        name: what to call it.
        words: the values that may stand in its input, strings or numbers.
        max_length: of its input, without ``<bos>``.
        build: makes the RASP expression; called when it is needed.
        causal: compile it with a causal mask.
        answer_position: where in the row, counted with ``<bos>``, its answer stands; None if everywhere.
        mlp_exactness: tracr's; larger is closer to the program, 100 is tracr's default.
    """

    name: str
    words: tuple[Any, ...]
    max_length: int
    build: Callable[[], Any]
    causal: bool = False
    answer_position: int | None = None
    mlp_exactness: float = 100

    def __post_init__(self) -> None:
        if not self.words or self.max_length < 1:
            raise ValueError(f"words: {self.words}, max_length: {self.max_length}, expected at least one of each")

    def interpret(self, text: Sequence[Any]) -> list[Any]:
        """What the expression means on a text: one value per word, None where it has none.

        It means what a compiled model can say. A categorical aggregate of several different values has no meaning (a
        compiled model mixes them), and is None here, where tracr's own interpreter stops or names a mean that is no
        output; the max-identifier selects many letters at the index that nobody reads. Several equal values are that
        value, which tracr's interpreter turns from 1 into 1.0. What cannot be computed, such as 1 / 0, has no meaning,
        and what has none is neither selected nor selects.
        """
        _need_tracr()
        return _evaluate(self.build(), list(text), causal=self.causal)

    def compile(self) -> Any:
        """Compile with tracr, in a few seconds.

        Returns:
            tracr's ``AssembledTransformerModel``; see :func:`ftmech_hf.models.conversion.convert`.

        Raises:
            ValueError: tracr is not installed, or cannot compile this program.
        """
        _need_tracr()
        from tracr.compiler import compiling
        from tracr.rasp import rasp

        expression = self.build()
        if isinstance(expression, rasp.TokensType):
            expression = rasp.Map(lambda word: word, expression)  # tracr wants something to compute
        try:
            return compiling.compile_rasp_to_model(
                expression,
                vocab=set(self.words),
                max_seq_len=self.max_length,
                causal=self.causal,
                compiler_bos=COMPILER_BOS,
                compiler_pad=COMPILER_PAD,
                mlp_exactness=self.mlp_exactness,
            )
        except Exception as error:  # whatever tracr, or a function of the program, stops with
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"program: {self.name} cannot be compiled by tracr: {reason}") from error


def _need_tracr() -> None:
    try:
        import tracr.compiler
        import tracr.rasp  # noqa: F401
    except ImportError as error:
        raise ValueError('program: needs tracr; pip install "ftmech_hf[tracr]"') from error


def _evaluate(expression: Any, text: list[Any], *, causal: bool) -> list[Any]:
    from tracr.rasp import causal_eval, rasp

    kind: Any = causal_eval.CausalEvaluator if causal else rasp.DefaultRASPEvaluator

    class Evaluator(kind):  # type: ignore[misc]
        def eval_aggregate(self, sop: Any, xs: Any) -> list[Any]:
            values = self.evaluate(sop.sop, xs)
            together = _mean if rasp.is_numerical(sop) else _agreed
            rows = self.evaluate(sop.selector, xs)
            chosen = ([value for selected, value in zip(row, values, strict=True) if selected] for row in rows)
            return [together(several) if several else sop.default for several in chosen]

        def eval_map(self, sop: Any, xs: Any) -> list[Any]:
            return [_defined(sop.f, value) for value in self.evaluate(sop.inner, xs)]

        def eval_sequence_map(self, sop: Any, xs: Any) -> list[Any]:
            both = zip(self.evaluate(sop.fst, xs), self.evaluate(sop.snd, xs), strict=True)
            return [_defined(sop.f, first, second) for first, second in both]

        def eval_select(self, sel: Any, xs: Any) -> list[list[bool]]:
            keys, queries = self.evaluate(sel.keys, xs), self.evaluate(sel.queries, xs)
            return [[bool(_defined(sel.predicate, key, query)) for key in keys] for query in queries]

    return list(Evaluator().evaluate(expression, text))


def _mean(values: list[Any]) -> Any:
    """The mean of numbers; None if one of them has no meaning."""
    if len(values) == 1 or any(value is None for value in values):
        return values[0] if len(values) == 1 else None
    return sum(values) / len(values)


def _agreed(values: list[Any]) -> Any:
    """What values that are equal have in common; None if they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def _defined(function: Callable[..., Any], *values: Any) -> Any:
    """What a function gives; None where a value has no meaning or it cannot be computed, as tracr compiles it."""
    if any(value is None for value in values):
        return None
    try:
        return function(*values)
    except ArithmeticError:
        return None


def output_values(program: Program) -> list[Any]:
    """Every value that a program's expression may have, each type of equal ones by itself, in an order of its own.

    tracr infers the same, but in sets: of 0 and False it keeps one, which of them depends on the hashes of strings.
    """
    _need_tracr()
    from tracr.rasp import rasp

    known: dict[int, list[Any]] = {}

    def values(expression: Any) -> list[Any]:
        if id(expression) not in known:
            found = {_identity(value): value for value in infer(expression) if value is not None}
            known[id(expression)] = list(found.values())
        return known[id(expression)]

    def infer(expression: Any) -> Iterable[Any]:
        match expression:
            case rasp.TokensType():
                return program.words
            case rasp.IndicesType():
                return range(program.max_length)
            case rasp.SelectorWidth():
                return range(program.max_length + 1)
            case rasp.Map():
                return (_defined(expression.f, value) for value in values(expression.inner))
            case rasp.SequenceMap():
                both = itertools.product(values(expression.fst), values(expression.snd))
                return (_defined(expression.f, *pair) for pair in both)
            case rasp.Aggregate():
                lengths = range(1, program.max_length + 1) if rasp.is_numerical(expression) else ()
                means = (value / length for value in values(expression.sop) for length in lengths)
                return itertools.chain(means, values(expression.sop))
            case _:
                return ()  # tracr compiles no other

    return values(program.build())


def _identity(value: Any) -> tuple[str, str]:
    """What tells values apart: 1, 1.0 and True are equal, but not the same."""
    return type(value).__name__, repr(value)


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
        if _identity(value) in tokens:
            continue
        if word in spelled:
            raise ValueError(f"words: {word} would stand for two things; give the program other words")
        spelled.add(word)
        if word not in SPECIAL_TOKENS:  # others but <bos> and <pad> mean nothing to a compiled program by themselves
            vocabulary.append(word)
        tokens[_identity(value)] = vocabulary.index(word)
    for value in outputs:
        if _identity(value) in tokens:
            continue
        spellings = (str(value), repr(value), f"{type(value).__name__}({value!r})")
        free = [each for each in spellings if each not in vocabulary]
        if not free:
            raise ValueError(f"outputs: {value!r} is written like another; give the program other words")
        tokens[_identity(value)] = len(vocabulary)
        vocabulary.append(free[0])
    return Words(
        tuple(vocabulary),
        inputs=[tokens[_identity(value)] for value in inputs],
        outputs=[tokens[_identity(value)] for value in outputs],
    )


def program_vocabulary(inputs: Sequence[Any], outputs: Sequence[Any]) -> tuple[str, ...]:
    """The words of a program's rows: special tokens, inputs, and the outputs that are no inputs; see :func:`spell`."""
    return spell(inputs, outputs).vocabulary


def letter_words(number: int) -> tuple[str, ...]:
    """The first letters of the alphabet."""
    if not 2 <= number <= 26:
        raise ValueError(f"letters: {number}, expected 2 to 26")
    return tuple(string.ascii_lowercase[:number])


def counter(*, operand: str = "a", letters: int = 9, length: int = 45) -> Program:
    """Count a letter (Jain et al., Alg. 1); the answer stands at index 1.

    Compiled with tracr's default exactness the answers are right up to 9: it finds n from 1 / (n + 1), and at 10 these
    numbers come closer than 1 / 100.
    """
    words = letter_words(letters)
    if operand not in words:
        raise ValueError(f"operand: {operand!r}, expected one of {', '.join(words)}")

    def build() -> Any:
        from tracr.rasp import rasp

        flag = rasp.Map(lambda word: int(word == operand), rasp.tokens).named("flag")
        selected = rasp.Select(flag, rasp.indices, rasp.Comparison.EQ).named("selected")
        count = rasp.SelectorWidth(selected).named("count")
        itself = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.EQ).named("itself")
        return rasp.Aggregate(itself, count).named("answer")

    return Program(f"counter_{operand}_{letters}x{length}", words, length, build, answer_position=ANSWER_POSITION)


def max_identifier(*, rank: int = 5, letters: int = 26, length: int = 10) -> Program:
    """Name the letter that is ``rank``-th in the alphabet among the text's (Jain et al., Alg. 2), at index 1.

    The paper calls a the largest letter, so that its "fifth largest" is the fifth in the alphabet. The letters of a
    text must differ.
    """
    if not 1 <= rank <= length:
        raise ValueError(f"rank: {rank}, expected 1 to {length}, the number of letters in a text")

    def build() -> Any:
        from tracr.rasp import rasp

        earlier = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.LT).named("earlier")
        place = rasp.SelectorWidth(earlier).named("place")
        flag = rasp.Map(lambda number: int(number == rank - 1), place).named("flag")
        selected = rasp.Select(flag, rasp.indices, rasp.Comparison.EQ).named("selected")
        return rasp.Aggregate(selected, rasp.tokens).named("answer")

    name = f"max_identifier_{rank}_{letters}x{length}"
    return Program(name, letter_words(letters), length, build, answer_position=ANSWER_POSITION)
