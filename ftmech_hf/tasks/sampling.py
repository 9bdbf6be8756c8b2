"""Draw strings from a grammar, all of them at once, with numpy."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.rules import Production, Rules

MAX_TABLE = 10_000
"""A symbol with at most this many derivations is sampled in one draw from a table of them."""

MAX_STRING = 100_000
"""Strings that grow longer than this on average are taken for ones that never end."""

NO_ANCESTOR = 255
"""In byte strings of symbol ids; grammars with more symbols are sampled without tables."""


class Strings(NamedTuple):
    """Sampled strings, end to end.

    Attributes:
        symbols: terminal ids of all strings, int8 (S,).
        starts: where each string starts, followed by S, int64 (num_strings + 1,).
        ancestors: int16 (levels, S): the symbol id (see :attr:`Rules.symbols`) of each terminal's ancestor at that
            depth, the root at depth 0; -1 at and below the terminal's own depth. None unless requested.
    """

    symbols: NDArray[np.int8]
    starts: NDArray[np.int64]
    ancestors: NDArray[np.int16] | None


class _Choices:
    """Groups of weighted choices, drawn with Walker's alias method: one random number and three look-ups each."""

    def __init__(self, groups: Sequence[Sequence[float]]) -> None:
        self.sizes = np.array([len(group) for group in groups])
        self.first = np.cumsum(self.sizes) - self.sizes
        self.keep = np.ones(int(self.sizes.sum()))
        self.alias = np.arange(int(self.sizes.sum()))
        for start, group in zip(self.first, groups, strict=True):
            if min(group) < max(group):
                self._fill(int(start), np.array(group) * len(group) / sum(group))

    def _fill(self, start: int, scaled: NDArray[np.float64]) -> None:
        small = [n for n, share in enumerate(scaled) if share < 1]
        large = [n for n, share in enumerate(scaled) if share >= 1]
        while small and large:
            low, high = small.pop(), large[-1]
            self.keep[start + low], self.alias[start + low] = scaled[low], start + high
            scaled[high] -= 1 - scaled[low]
            if scaled[high] < 1:
                small.append(large.pop())

    def draw(self, rng: np.random.Generator, group: NDArray[np.int64]) -> NDArray[np.int64]:
        scaled = rng.random(len(group)) * self.sizes[group]
        place = scaled.astype(np.int64)
        chosen = self.first[group] + place
        return np.where(scaled - place < self.keep[chosen], chosen, self.alias[chosen])


class Sampler:
    """Tables that let numpy expand all strings at once.

    From the root, symbols are expanded level by level; a symbol with few derivations waits and is then replaced by one
    of them, whole, from a table. Nonterminals of the paper's grammar with up to 27 terminals are such symbols, so most
    of the work is copying bytes.
    """

    def __init__(self, grammar: Rules) -> None:
        self.grammar = grammar
        self.ids = {symbol: number for number, symbol in enumerate(grammar.symbols)}
        self.derivations = {t: [(1.0, [bytes([n])])] for n, t in enumerate(grammar.terminals)}
        for symbol in grammar.reachable(grammar.root):
            self._enumerate(symbol)
        names = grammar.symbols
        tabled = [name in self.derivations for name in names]
        self.waits = np.array(tabled)
        productions: list[Sequence[Production]] = [
            [((name,), 1.0)] if done else grammar.rules[name] for name, done in zip(names, tabled, strict=True)
        ]
        self.rules = _Choices([[p for _, p in group] for group in productions])
        right = [[self.ids[child] for child in rhs] for group in productions for rhs, _ in group]
        self.rule_lengths = np.array([len(rhs) for rhs in right])
        self.children = np.full((len(right), int(self.rule_lengths.max())), -1)
        for row, rhs in enumerate(right):
            self.children[row, : len(rhs)] = rhs
        tables = [self.derivations.get(name, [(1.0, [b""])]) for name in names]
        self.strings = _Choices([[p for p, _ in group] for group in tables])
        flat = [levels for group in tables for _, levels in group]
        self.string_lengths = np.array([len(levels[-1]) for levels in flat])
        self.string_table = self._pad([levels[-1] for levels in flat]).astype(np.int8)
        self.in_string = np.arange(self.string_table.shape[1]) < self.string_lengths[:, None]
        self._flat = flat

    def _enumerate(self, symbol: str) -> None:
        """List the derivations of a symbol as (probability, one byte string per level, the last the terminals)."""
        if symbol in self.derivations or len(self.ids) > NO_ANCESTOR:
            return
        if any(symbol in self.grammar.reachable(child) for child in self._nonterminals(symbol)):
            return
        found: list[tuple[float, list[bytes]]] = []
        for rhs, probability in self.grammar.rules[symbol]:
            for child in rhs:
                if child in self.grammar.rules:
                    self._enumerate(child)
                if child not in self.derivations:
                    return
            if len(found) + np.prod([float(len(self.derivations[child])) for child in rhs]) > MAX_TABLE:
                return
            for parts in itertools.product(*(self.derivations[child] for child in rhs)):
                found.append(self._join(symbol, probability, parts))
        self.derivations[symbol] = found

    def _nonterminals(self, symbol: str) -> Iterator[str]:
        return (child for rhs, _ in self.grammar.rules[symbol] for child in rhs if child in self.grammar.rules)

    def _join(
        self, symbol: str, probability: float, parts: Sequence[tuple[float, list[bytes]]]
    ) -> tuple[float, list[bytes]]:
        text = b"".join(levels[-1] for _, levels in parts)
        depth = max(len(levels) for _, levels in parts) - 1
        above = [
            b"".join(levels[d] if d < len(levels) - 1 else b"\xff" * len(levels[-1]) for _, levels in parts)
            for d in range(depth)
        ]
        for part, _ in parts:
            probability *= part
        return probability, [bytes([self.ids[symbol]]) * len(text), *above, text]

    @staticmethod
    def _pad(rows: Sequence[bytes]) -> NDArray[np.uint8]:
        width = max(len(row) for row in rows)
        return np.frombuffer(b"".join(row.ljust(width, b"\xff") for row in rows), np.uint8).reshape(len(rows), width)

    @functools.cached_property
    def _ancestor_table(self) -> NDArray[np.int16]:
        """(levels, derivations, terminals), -1 where there is none."""
        depth = max(len(levels) for levels in self._flat) - 1
        width = self.string_table.shape[1]
        table = np.full((depth, len(self._flat), width), -1, np.int16)
        for level in range(depth):
            rows = [levels[level] if level < len(levels) - 1 else b"" for levels in self._flat]
            padded = self._pad([*rows, b"\xff" * width])[:-1]
            table[level] = np.where(padded == NO_ANCESTOR, -1, padded.astype(np.int16))
        return table

    def sample(self, rng: np.random.Generator, num_strings: int, ancestors: bool) -> Strings:
        """See :meth:`ftmech_hf.tasks.grammar.Grammar.sample`."""
        symbols = np.full(num_strings, self.ids[self.grammar.root])
        owners = np.arange(num_strings)
        chains: list[NDArray[np.int16]] = []  # one row per level: the ancestor of each present symbol, or -1
        while not self.waits[symbols].all():
            rule = self.rules.draw(rng, symbols)
            lengths = self.rule_lengths[rule]
            if ancestors:
                grown = np.where(self.waits[symbols], -1, symbols).astype(np.int16)
                chains = [np.repeat(chain, lengths) for chain in [*chains, grown]]
            children = self.children[rule]
            symbols = children[children >= 0]
            owners = np.repeat(owners, lengths)
            if len(symbols) > MAX_STRING * num_strings:
                raise ValueError(f"grammar: strings of root {self.grammar.root!r} grow without end")
        string = self.strings.draw(rng, symbols)
        inside = self.in_string[string]
        text = self.string_table[string][inside]
        lengths = self.string_lengths[string]
        total = np.bincount(owners, lengths, num_strings).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(total)])
        above = self._ancestors(chains, string, inside, lengths) if ancestors else None
        return Strings(text, starts, above)

    def _ancestors(
        self,
        chains: Sequence[NDArray[np.int16]],
        string: NDArray[np.int64],
        inside: NDArray[np.bool_],
        lengths: NDArray[np.int64],
    ) -> NDArray[np.int16]:
        """Chains above each table entry, and from its own depth on the levels of the entry."""
        table = self._ancestor_table
        depth = sum((chain >= 0).astype(np.int64) for chain in chains) + np.zeros(len(string), np.int64)
        above = np.full((len(chains) + len(table), int(lengths.sum())), -1, np.int16)
        token_depth = np.repeat(depth, lengths)
        for level, chain in enumerate(chains):
            above[level] = np.repeat(chain, lengths)
        for own in range(len(table)):
            values = table[own][string][inside]
            place = token_depth + own
            known = values >= 0
            above[place[known], np.flatnonzero(known)] = values[known]
        used = int((above >= 0).any(axis=1).sum())
        return above[:used]
