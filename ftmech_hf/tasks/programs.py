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

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftmech_hf.tasks.rasp import interpret, possible_values

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

        See :func:`ftmech_hf.tasks.rasp.interpret`.

        Raises:
            ValueError: tracr is not installed.
        """
        _need_tracr()
        return interpret(self.build(), text, causal=self.causal)

    def output_values(self) -> list[Any]:
        """Every value that the expression may have; see :func:`ftmech_hf.tasks.rasp.possible_values`.

        Raises:
            ValueError: tracr is not installed.
        """
        _need_tracr()
        return possible_values(self.build(), self.words, self.max_length)

    def compile(self) -> Any:
        """Compile with tracr, in about a second.

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
            return _without_random_weights(
                lambda: compiling.compile_rasp_to_model(
                    expression,
                    vocab=set(self.words),
                    max_seq_len=self.max_length,
                    causal=self.causal,
                    compiler_bos=COMPILER_BOS,
                    compiler_pad=COMPILER_PAD,
                    mlp_exactness=self.mlp_exactness,
                )
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


def _without_random_weights(compiled: Callable[[], Any]) -> Any:
    """What a function of tracr's gives, without the random weights that it would draw only to write over them.

    To draw them is three quarters of the time of compiling. Embeddings are drawn from a matrix of tracr's, and stay.
    """
    import haiku

    found = []

    def create(draw: Callable[..., Any], shape: Any, dtype: Any, init: Any, context: Any) -> Any:
        return draw(shape, dtype, init) if context.name == "embeddings" else np.zeros(shape, dtype)

    def run() -> None:
        with haiku.custom_creator(create):
            found.append(compiled())

    haiku.transform(run).init(None)
    return found[0]


def letter_words(number: int) -> tuple[str, ...]:
    """The first letters of the alphabet.

    Raises:
        ValueError: fewer than 2 letters, or more than the alphabet has.
    """
    if not 2 <= number <= 26:
        raise ValueError(f"letters: {number}, expected 2 to 26")
    return tuple(string.ascii_lowercase[:number])


def counter(*, operand: str = "a", letters: int = 9, length: int = 45) -> Program:
    """Count a letter (Jain et al., Alg. 1); the answer stands at index 1.

    Compiled with tracr's default exactness the answers are right up to 9: it finds n from 1 / (n + 1), and at 10 these
    numbers come closer than 1 / 100.

    Raises:
        ValueError: the operand is none of the letters, or there are too few or too many of these.
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

    Raises:
        ValueError: a rank that a text does not have, or too few or too many letters.
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
