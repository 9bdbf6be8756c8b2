"""Probabilistic context-free grammars: rules, a batch sampler, a membership test.

The one preset is the grammar of Jain et al. (arXiv 2311.12786, Fig. 14): root ``s``, six levels of rules above the
terminals ``a b c``, two productions of probability 0.5 for each nonterminal. Starting lower (``root="m"``) gives the
same language at a smaller scale.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rules = Mapping[str, Sequence[tuple[str, ...]]]


def _rules(**productions: str) -> dict[str, list[tuple[str, ...]]]:
    return {lhs: [tuple(rhs.split()) for rhs in text.split("/")] for lhs, text in productions.items()}


GRAMMARS: dict[str, dict[str, list[tuple[str, ...]]]] = {
    "jain": _rules(
        s="r q / q p",
        p="m n o / n o m", q="n m o / m n", r="o m / m o n",
        m="l j / j l k", n="k j l / l j k", o="l k j / k j",
        j="h i / i h", k="h g i / g h i", l="i h g / h i g",
        g="d f e / f e d", h="e d f / d e f", i="e f d / f d e",
        d="c a / a b c", e="c b / c a b", f="c b a / b a",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Grammar:
    """A PCFG with equally likely productions, encoded for vectorised sampling.

    Attributes:
        rules: nonterminal -> its productions. A symbol without rules is a terminal.
        root: the start symbol.
    """

    rules: Rules
    root: str

    def __post_init__(self) -> None:
        if self.root not in self.rules:
            raise ValueError(f"root: {self.root!r} has no rules, expected one of {' '.join(self.rules)}")

    @functools.cached_property
    def terminals(self) -> tuple[str, ...]:
        """The symbols without rules, sorted: terminal id t stands for ``terminals[t]``."""
        symbols = {symbol for productions in self.rules.values() for rhs in productions for symbol in rhs}
        return tuple(sorted(symbols - set(self.rules)))

    @functools.cached_property
    def _tables(self) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(root id, first production, number of productions, lengths of productions, right-hand sides padded)."""
        symbols = [*self.terminals, *self.rules]
        ids = {symbol: number for number, symbol in enumerate(symbols)}
        productions = [((symbol,),) if symbol not in self.rules else tuple(self.rules[symbol]) for symbol in symbols]
        counts = np.array([len(group) for group in productions])
        flat = [rhs for group in productions for rhs in group]
        lengths = np.array([len(rhs) for rhs in flat])
        padded = np.full((len(flat), int(lengths.max())), -1)
        for row, rhs in enumerate(flat):
            padded[row, : len(rhs)] = [ids[symbol] for symbol in rhs]
        return ids[self.root], np.cumsum(counts) - counts, counts, lengths, padded

    def sample(self, rng: np.random.Generator, num_strings: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Draw whole strings, all of them one level of rules at a time.

        Returns:
            terminal ids of all strings end to end, int8 (sum of lengths,); and where each string starts, followed by
            the total, int64 (num_strings + 1,).
        """
        root, first, counts, lengths, padded = self._tables
        symbols = np.full(num_strings, root)
        owners = np.arange(num_strings)
        num_terminals = len(self.terminals)
        while symbols.size and symbols.max() >= num_terminals:
            chosen = first[symbols] + (rng.random(symbols.size) * counts[symbols]).astype(np.int64)
            children = padded[chosen]
            keep = children >= 0
            symbols = children[keep]
            owners = np.repeat(owners, lengths[chosen])
        starts = np.searchsorted(owners, np.arange(num_strings + 1))
        return symbols.astype(np.int8), starts

    def sample_windows(self, rng: np.random.Generator, num_windows: int, length: int) -> NDArray[np.int8]:
        """Draw strings and cut one window out of each, its start uniform over the string (paper, App. B.2).

        The paper does not say what happens to the quarter of its strings that are shorter than its window; here they
        are drawn again, so the strings behind the windows are the grammar's, given that they are long enough.

        Returns:
            windows (num_windows, length), int8 terminal ids.

        Raises:
            ValueError: strings of this grammar are (almost) never that long.
        """
        windows = np.empty((num_windows, length), np.int8)
        done = 0
        for _ in range(100):
            wanted = num_windows - done
            symbols, starts = self.sample(rng, wanted)
            spare = np.diff(starts) - length
            offsets = starts[:-1] + (rng.random(wanted) * (spare + 1)).astype(np.int64)
            offsets = offsets[spare >= 0]
            windows[done : done + len(offsets)] = symbols[offsets[:, None] + np.arange(length)]
            done += len(offsets)
            if done == num_windows:
                return windows
        raise ValueError(f"text_length: strings of root {self.root!r} are (almost) never {length} symbols long")

    def contains(self, string: Sequence[str]) -> bool:
        """Whether ``string`` can be derived from the root (span dynamic programme; exact for any acyclic grammar)."""

        @functools.cache
        def derives(symbol: str, start: int, stop: int) -> bool:
            if symbol not in self.rules:
                return stop - start == 1 and string[start] == symbol
            return any(derives_all(rhs, start, stop) for rhs in self.rules[symbol])

        @functools.cache
        def derives_all(rhs: tuple[str, ...], start: int, stop: int) -> bool:
            if len(rhs) == 1:
                return derives(rhs[0], start, stop)
            cuts = range(start + 1, stop - len(rhs) + 2)
            return any(derives(rhs[0], start, cut) and derives_all(rhs[1:], cut, stop) for cut in cuts)

        return len(string) > 0 and derives(self.root, 0, len(string))


@functools.cache
def load_grammar(name: str, root: str) -> Grammar:
    """The preset grammar ``name`` started at ``root``."""
    if name not in GRAMMARS:
        raise ValueError(f"grammar: unknown {name!r}, expected one of {', '.join(GRAMMARS)}")
    return Grammar(GRAMMARS[name], root)
