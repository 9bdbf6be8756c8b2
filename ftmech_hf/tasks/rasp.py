"""What a RASP expression of tracr means: its values on a text, and every value that it may have.

These are the values that a compiled model can say. Whatever it cannot say has no meaning, and is None.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any


def interpret(expression: Any, text: Sequence[Any], *, causal: bool = False) -> list[Any]:
    """What an expression means on a text: one value per word, None where it has none.

    A categorical aggregate of several different values has no meaning (a compiled model mixes them), and is None here,
    where tracr's own interpreter stops or names a mean that is no output; the max-identifier selects many letters at
    the index that nobody reads. Several equal values are that value, which tracr's interpreter turns from 1 into 1.0.
    What cannot be computed, such as 1 / 0, has no meaning, and what has none is neither selected nor selects.

    Args:
        expression: of tracr's ``rasp``.
        text: the words.
        causal: whether a word sees only itself and those before it.
    """
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
            return [defined(sop.f, value) for value in self.evaluate(sop.inner, xs)]

        def eval_sequence_map(self, sop: Any, xs: Any) -> list[Any]:
            both = zip(self.evaluate(sop.fst, xs), self.evaluate(sop.snd, xs), strict=True)
            return [defined(sop.f, first, second) for first, second in both]

        def eval_select(self, sel: Any, xs: Any) -> list[list[bool]]:
            keys, queries = self.evaluate(sel.keys, xs), self.evaluate(sel.queries, xs)
            return [[bool(defined(sel.predicate, key, query)) for key in keys] for query in queries]

    return list(Evaluator().evaluate(expression, list(text)))


def _mean(values: list[Any]) -> Any:
    """The mean of numbers; None if one of them has no meaning."""
    if len(values) == 1 or any(value is None for value in values):
        return values[0] if len(values) == 1 else None
    return sum(values) / len(values)


def _agreed(values: list[Any]) -> Any:
    """What values that are equal have in common; None if they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def defined(function: Callable[..., Any], *values: Any) -> Any:
    """What a function gives; None where a value has no meaning or it cannot be computed, as tracr compiles it."""
    if any(value is None for value in values):
        return None
    try:
        return function(*values)
    except ArithmeticError:
        return None


def possible_values(expression: Any, words: Sequence[Any], max_length: int) -> list[Any]:
    """Every value that an expression may have, each type of equal ones by itself, in an order of its own.

    tracr infers the same, but in sets: of 0 and False it keeps one, which of them depends on the hashes of strings.

    Args:
        expression: of tracr's ``rasp``.
        words: the values that may stand in a text.
        max_length: of a text.
    """
    from tracr.rasp import rasp

    known: dict[int, list[Any]] = {}

    def values(expression: Any) -> list[Any]:
        if id(expression) not in known:
            found = {identity(value): value for value in infer(expression) if value is not None}
            known[id(expression)] = list(found.values())
        return known[id(expression)]

    def infer(expression: Any) -> Iterable[Any]:
        match expression:
            case rasp.TokensType():
                return words
            case rasp.IndicesType():
                return range(max_length)
            case rasp.SelectorWidth():
                return range(max_length + 1)
            case rasp.Map():
                return (defined(expression.f, value) for value in values(expression.inner))
            case rasp.SequenceMap():
                both = itertools.product(values(expression.fst), values(expression.snd))
                return (defined(expression.f, *pair) for pair in both)
            case rasp.Aggregate():
                lengths = range(1, max_length + 1) if rasp.is_numerical(expression) else ()
                means = (value / length for value in values(expression.sop) for length in lengths)
                return itertools.chain(means, values(expression.sop))
            case _:
                return ()  # tracr compiles no other

    return values(expression)


def identity(value: Any) -> tuple[str, str]:
    """What tells values apart: 1, 1.0 and True are equal, but not the same."""
    return type(value).__name__, repr(value)
