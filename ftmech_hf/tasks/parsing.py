"""Whole strings and their trees: membership, probability, most likely parse (the inside and Viterbi algorithms)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.grammar import Grammar

Tree = tuple[str, tuple["Tree | str", ...]]
"""(symbol, children); a child that is a string is a terminal."""

Item = tuple[str, ...]
"""The end of a right-hand side, two symbols or more. It derives what its symbols derive, one after the other."""


@dataclass(frozen=True)
class ParseResult:
    """What a grammar says about one string of its language.

    Attributes:
        tree: the most likely derivation.
        probability: of that derivation.
        string_probability: of the string, summed over all its derivations.
    """

    tree: Tree
    probability: float
    string_probability: float

    def ancestors(self, grammar: Grammar) -> NDArray[np.int16]:
        """Symbol id of every terminal's ancestor at each depth, (levels, T), the root first; -1 where there is none."""
        paths = list(_paths(self.tree, ()))
        ids = {symbol: number for number, symbol in enumerate(grammar.symbols)}
        table = np.full((max(map(len, paths)), len(paths)), -1, np.int16)
        for place, path in enumerate(paths):
            table[: len(path), place] = [ids[symbol] for symbol in path]
        return table


def _paths(tree: Tree | str, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(tree, str):
        yield above
        return
    for child in tree[1]:
        yield from _paths(child, (*above, tree[0]))


def parse(grammar: Grammar, string: Sequence[str]) -> ParseResult | None:
    """Parse a whole string; None if it is not in the language.

    Exact for any grammar. Time grows with the cube of the length in the worst case; spans that no symbol can fill are
    left out, so a string of the paper's grammar (274 symbols) takes well under a second. Probabilities are plain
    doubles: strings of more than about a thousand symbols may underflow.
    """
    if not string:
        return None
    chart = _Chart(grammar, tuple(string))
    total = chart.total[grammar.root][len(string), 0]
    if total == 0:
        return None
    best = chart.best[grammar.root][len(string), 0]
    return ParseResult(chart.tree(grammar.root, 0, len(string)), float(best), float(total))


def contains(grammar: Grammar, string: Sequence[str]) -> bool:
    """Whether the grammar derives ``string``."""
    return parse(grammar, string) is not None


@functools.cache
def _length_ranges(grammar_rules: tuple[tuple[str, tuple[Item, ...]], ...]) -> dict[str, tuple[int, float]]:
    """Shortest and longest string of each nonterminal; the longest is infinite where it refers to itself."""
    ranges = {symbol: (1, 1.0) for symbol, _ in grammar_rules}
    shortest = dict.fromkeys(ranges, math.inf)
    for _ in ranges:
        for symbol, group in grammar_rules:
            shortest[symbol] = min(sum(shortest.get(child, 1) for child in rhs) for rhs in group)

    def longest(symbol: str, below: frozenset[str]) -> float:
        if symbol in below:
            return math.inf
        return max(sum(longest_of(child, below | {symbol}) for child in rhs) for rhs in rules[symbol])

    @functools.cache
    def longest_of(symbol: str, below: frozenset[str]) -> float:
        return longest(symbol, below) if symbol in rules else 1

    rules = dict(grammar_rules)
    return {symbol: (int(shortest[symbol]), longest(symbol, frozenset())) for symbol in ranges}


class _Chart:
    """Inside and Viterbi probabilities of every (symbol or item, width, start), filled from narrow to wide spans.

    Widths and symbols are looped over; all starts of a width are done at once.
    """

    def __init__(self, grammar: Grammar, string: tuple[str, ...]) -> None:
        self.grammar, self.length = grammar, len(string)
        used = [symbol for symbol in grammar.rules if symbol in grammar.reachable(grammar.root)]
        self.order = _units_first(grammar, used)
        rules = tuple((symbol, tuple(rhs for rhs, _ in grammar.rules[symbol])) for symbol in used)
        self.ranges: dict[str | Item, tuple[int, float]] = dict(_length_ranges(rules).items())
        self.ranges |= dict.fromkeys(grammar.terminals, (1, 1.0))
        items = {rhs[n:] for _, group in rules for rhs in group for n in range(len(rhs) - 1)}
        self.items = sorted(items, key=len)
        for item in self.items:
            ends = [self.ranges[symbol] for symbol in item]
            self.ranges[item] = sum(low for low, _ in ends), sum(high for _, high in ends)
        shape = (self.length + 1, self.length + 1)
        self.total = {name: np.zeros(shape) for name in self.ranges}
        self.best = {name: np.zeros(shape) for name in self.ranges}
        for terminal in grammar.terminals:
            here = np.array([symbol == terminal for symbol in string], float)
            self.total[terminal][1, :-1] = self.best[terminal][1, :-1] = here
        for width in range(1, self.length + 1):
            self._fill(width)

    def _reaches(self, name: str | Item, width: int) -> bool:
        low, high = self.ranges[name]
        return low <= width <= high

    def _cuts(self, item: Item, width: int) -> range:
        """Widths that the first symbol of an item can have within ``width``."""
        (low, high), (rest_low, rest_high) = self.ranges[item[0]], self.ranges[_rest(item)]
        return range(int(max(low, width - rest_high)), int(min(high, width - rest_low)) + 1)

    def _fill(self, width: int) -> None:
        starts = self.length - width + 1
        for item in self.items:
            if self._reaches(item, width):
                first, rest = item[0], _rest(item)
                for cut in self._cuts(item, width):
                    left, right = slice(0, starts), slice(cut, cut + starts)
                    both = self.total[first][cut, left] * self.total[rest][width - cut, right]
                    self.total[item][width, left] += both
                    likely = self.best[first][cut, left] * self.best[rest][width - cut, right]
                    np.maximum(self.best[item][width, left], likely, out=self.best[item][width, left])
        for symbol in self.order:
            if self._reaches(symbol, width):
                for rhs, probability in self.grammar.rules[symbol]:
                    name = _name(rhs)
                    self.total[symbol][width] += probability * self.total[name][width]
                    np.maximum(
                        self.best[symbol][width], probability * self.best[name][width], out=self.best[symbol][width]
                    )

    def tree(self, symbol: str, start: int, width: int) -> Tree:
        """Follow the most likely choices down; ties go to the first production and the narrowest first child."""
        shares = [p * self.best[_name(rhs)][width, start] for rhs, p in self.grammar.rules[symbol]]
        rhs, _ = self.grammar.rules[symbol][int(np.argmax(shares))]
        children: list[Tree | str] = []
        while len(rhs) > 1:
            cuts = list(self._cuts(rhs, width))
            likely = [self.best[rhs[0]][cut, start] * self.best[_rest(rhs)][width - cut, start + cut] for cut in cuts]
            cut = cuts[int(np.argmax(likely))]
            children.append(self._child(rhs[0], start, cut))
            rhs, start, width = rhs[1:], start + cut, width - cut
        return symbol, (*children, self._child(rhs[0], start, width))

    def _child(self, symbol: str, start: int, width: int) -> Tree | str:
        return self.tree(symbol, start, width) if symbol in self.grammar.rules else symbol


def _name(rhs: Item) -> str | Item:
    return rhs if len(rhs) > 1 else rhs[0]


def _rest(item: Item) -> str | Item:
    return _name(item[1:])


def _units_first(grammar: Grammar, symbols: Sequence[str]) -> list[str]:
    """Order symbols so that ``b`` stands before ``a`` if ``a`` may turn into ``b`` alone; there are no cycles."""
    done: list[str] = []

    def visit(symbol: str) -> None:
        if symbol in done:
            return
        for rhs, _ in grammar.rules[symbol]:
            if len(rhs) == 1 and rhs[0] in grammar.rules:
                visit(rhs[0])
        done.append(symbol)

    for symbol in symbols:
        visit(symbol)
    return done
