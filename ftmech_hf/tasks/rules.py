"""The rules of a probabilistic context-free grammar, validated: what is sampled, parsed and counted over."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Production = tuple[tuple[str, ...], float]
"""A right-hand side and its probability."""


@dataclass(frozen=True)
class Rules:
    """A PCFG without empty productions and without endless strings.

    Attributes:
        rules: nonterminal -> its (right-hand side, probability) pairs.
        terminals: the alphabet; terminal id t stands for ``terminals[t]``.
        root: the start symbol.

    Raises:
        ValueError: an undefined or doubly defined symbol, probabilities that do not sum to 1, a rule that leads back
            to itself alone, or strings whose expected length is infinite; names the rule.
    """

    rules: Mapping[str, tuple[Production, ...]]
    terminals: tuple[str, ...]
    root: str

    def __post_init__(self) -> None:
        if self.root not in self.rules:
            raise ValueError(f"root: {self.root!r} has no rules, expected one of {' '.join(self.rules)}")
        if len(self.terminals) > np.iinfo(np.int8).max:
            raise ValueError(f"grammar: {len(self.terminals)} terminals, expected at most {np.iinfo(np.int8).max}")
        for symbol in self.rules:
            self._check_productions(symbol)
        self._check_unit_cycles()
        self._check_finite()

    def _check_productions(self, symbol: str) -> None:
        if symbol in self.terminals:
            raise ValueError(f"grammar: {symbol!r} is a terminal and has rules too")
        total = sum(probability for _, probability in self.rules[symbol])
        if abs(total - 1) > 1e-6 or not all(0 < p <= 1 for _, p in self.rules[symbol]):
            raise ValueError(f"grammar: the probabilities of {symbol!r} are not above 0 with sum 1 (sum {total:g})")
        for rhs, _ in self.rules[symbol]:
            if not rhs:
                raise ValueError(f"grammar: {symbol!r} has an empty production, expected at least one symbol")
            for name in rhs:
                if name not in self.rules and name not in self.terminals:
                    raise ValueError(f"grammar: {name!r} in a production of {symbol!r} is neither rule nor terminal")

    def _check_finite(self) -> None:
        # Branching-process theory: the expected number of symbols after d levels goes as the d-th power of the mean
        # offspring matrix; its sum over levels is finite if and only if the spectral radius is below 1.
        radius = float(np.abs(np.linalg.eigvals(self._mean_offspring())).max())
        if radius > 1 - 1e-9:
            raise ValueError(
                f"grammar: strings of root {self.root!r} have no finite expected length "
                f"(a level of rules multiplies its symbols by {radius:.3g}); make the recursive productions rarer"
            )

    def _check_unit_cycles(self) -> None:
        reachable = self.reachable(self.root)
        unit = {s: {rhs[0] for rhs, _ in self.rules[s] if len(rhs) == 1 and rhs[0] in self.rules} for s in reachable}
        closure = dict(unit)
        for _ in unit:
            closure = {s: seen.union(*(unit[t] for t in seen)) for s, seen in closure.items()}
        for symbol, seen in closure.items():
            if symbol in seen:
                raise ValueError(f"grammar: {symbol!r} leads back to {symbol!r} alone, so a string has endless parses")

    def _mean_offspring(self) -> NDArray[np.float64]:
        names = [symbol for symbol in self.rules if symbol in self.reachable(self.root)]
        place = {name: number for number, name in enumerate(names)}
        mean = np.zeros((len(names), len(names)))
        for symbol in names:
            for rhs, probability in self.rules[symbol]:
                for child in rhs:
                    if child in place:
                        mean[place[symbol], place[child]] += probability
        return mean

    def reachable(self, symbol: str) -> set[str]:
        """The nonterminals that occur in derivations of ``symbol``, itself included."""
        found, todo = {symbol}, [symbol]
        while todo:
            children = {child for rhs, _ in self.rules[todo.pop()] for child in rhs if child in self.rules}
            todo += children - found
            found |= children
        return found

    @property
    def symbols(self) -> tuple[str, ...]:
        """Terminals, then nonterminals: a symbol id is a position here."""
        return (*self.terminals, *self.rules)

    @functools.cached_property
    def is_recursive(self) -> bool:
        """Whether a symbol can occur below itself, so that derivations have no greatest depth."""
        power = self._mean_offspring() > 0
        for _ in range(len(power).bit_length()):
            power = power | (power @ power)
        return bool(power.diagonal().any())
