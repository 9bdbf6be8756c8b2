"""The variables of a RASP program on many texts, and what the program answers if one of them has another text's value.

This is what an exchange of activations does to the program itself (Geiger et al., arXiv 2106.02997): which parts of a
compiled model carry an answer is known from it without asking the model. A variable is an expression with a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.rasp import defined, identity

DIGITS = 12
"""Means that agree to so many are one: sums of the same numbers in another order."""


class Values(NamedTuple):
    """What an expression is at every position of some texts.

    Attributes:
        values: what it may be; None where it has no meaning.
        codes: which of them it is, (B, T).
    """

    values: list[Any]
    codes: NDArray[np.int64]

    def at(self, position: int) -> list[Any]:
        """What it is at one position of each text."""
        return [self.values[code] for code in self.codes[:, position]]


Exchange = Mapping[str, tuple[int, NDArray[np.int64], Values]]
"""variable -> (position, which text's value each text gets there, the variable's values on all texts)."""


class Variables:
    """All expressions of a program on some texts of one length.

    Args:
        expression: of tracr's ``rasp``; no selectors put together of others, which tracr does not compile.
        texts: (B, T) words.
        causal: whether a position sees only itself and those before it.
    """

    def __init__(self, expression: Any, texts: Sequence[Sequence[Any]], *, causal: bool = False) -> None:
        self.expression, self.causal = expression, causal
        words = np.empty((len(texts), len(texts[0])), object)
        words[:] = texts
        known = {identity(word): word for word in words.flat}
        places = {name: place for place, name in enumerate(known)}
        codes = np.array([places[identity(word)] for word in words.flat]).reshape(words.shape)
        self._words = Values(list(known.values()), codes)

    def answers(self, position: int) -> list[Any]:
        """The program's answer at one position of each text; None where it has no meaning."""
        return self.evaluate()[self.expression.name].at(position)

    def evaluate(self, exchange: Exchange | None = None) -> dict[str, Values]:
        """Every variable's values, with some exchanged before anything is computed from them.

        Raises:
            ValueError: a variable to be exchanged is none of the program's, or two expressions have one name.
        """
        run = _Run(self._words, self.causal, exchange or {})
        run.values(self.expression)
        if missing := [name for name in run.exchange if name not in run.named]:
            raise ValueError(f"exchange: {missing[0]!r} is no variable of the program: {', '.join(run.named)}")
        return run.named

    def exchanged(self, variables: Sequence[str], position: int, order: NDArray[np.int64]) -> dict[str, Values]:
        """:meth:`evaluate` with variables at one position as they are on another text, all at once.

        Args:
            variables: which.
            position: where.
            order: which text's value each text gets, (B,).
        """
        clean = self.evaluate()
        return self.evaluate({name: (position, order, clean[name]) for name in variables})


class _Run:
    """One evaluation of an expression and all that is in it."""

    def __init__(self, words: Values, causal: bool, exchange: Exchange) -> None:
        self.words, self.causal, self.exchange = words, causal, exchange
        self.named: dict[str, Values] = {}
        self._seen: dict[int, Values] = {}

    def values(self, expression: Any) -> Values:
        if (key := id(expression)) not in self._seen:
            found = self._compute(expression)
            if expression.name in self.named:
                raise ValueError(f"program: two of its expressions are named {expression.name!r}")
            if expression.name in self.exchange:
                found = _replaced(found, *self.exchange[expression.name])
            self._seen[key] = self.named[expression.name] = found
        return self._seen[key]

    def _compute(self, expression: Any) -> Values:
        from tracr.rasp import rasp

        match expression:
            case rasp.TokensType():
                return self.words
            case rasp.IndicesType():
                rows, length = self.words.codes.shape
                return Values([*range(length)], np.tile(np.arange(length), (rows, 1)))
            case rasp.Map():
                inner = self.values(expression.inner)
                return _coded([defined(expression.f, value) for value in inner.values], inner.codes)
            case rasp.SequenceMap():
                first, second = self.values(expression.fst), self.values(expression.snd)
                pairs = [defined(expression.f, one, other) for one in first.values for other in second.values]
                return _coded(pairs, first.codes * len(second.values) + second.codes)
            case rasp.SelectorWidth():
                width = self._selected(expression.selector).sum(-1)
                return Values([*range(width.shape[1] + 1)], width)
            case rasp.Aggregate():
                return self._aggregate(expression, rasp.is_numerical(expression))
        raise ValueError(f"program: {type(expression).__name__} is no expression that tracr compiles")

    def _selected(self, selector: Any) -> NDArray[np.bool_]:
        """Which keys each query selects, (B, queries, keys)."""
        keys, queries = self.values(selector.keys), self.values(selector.queries)
        table = np.array(
            [[bool(defined(selector.predicate, key, query)) for key in keys.values] for query in queries.values]
        )
        chosen: NDArray[np.bool_] = table[queries.codes[:, :, None], keys.codes[:, None, :]]
        return np.tril(chosen) if self.causal else chosen

    def _aggregate(self, expression: Any, numerical: bool) -> Values:
        chosen, inner = self._selected(expression.selector), self.values(expression.sop)
        number, codes = chosen.sum(-1), np.broadcast_to(inner.codes[:, None, :], chosen.shape)
        if numerical:
            numbers = np.array([np.nan if value is None else float(value) for value in inner.values])
            total = np.where(chosen, numbers[codes], 0.0).sum(-1)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.where(number > 0, total / number, float(expression.default or 0))
            _, first, found = np.unique(mean.round(DIGITS), return_index=True, return_inverse=True)
            values = [None if np.isnan(value) else float(value) for value in mean.flat[first]]
            return Values(values, found.reshape(mean.shape))
        least = np.where(chosen, codes, len(inner.values)).min(-1)
        most = np.where(chosen, codes, -1).max(-1)
        return Values([*inner.values, None], np.where(least == most, most, len(inner.values)))


def _replaced(found: Values, position: int, order: NDArray[np.int64], clean: Values) -> Values:
    codes = found.codes.copy()
    codes[:, position] = clean.codes[order, position] + len(found.values)
    return _coded([*found.values, *clean.values], codes)


def _coded(values: Sequence[Any], codes: NDArray[np.int64]) -> Values:
    """The same with each value once."""
    kept = {identity(value): value for value in values}
    places = {name: place for place, name in enumerate(kept)}
    return Values(list(kept.values()), np.array([places[identity(value)] for value in values])[codes])
