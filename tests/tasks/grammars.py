"""Small grammars and their languages by brute force, the oracle of everything that is computed cleverly."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import strategies as st

from ftmech_hf.tasks.grammar import Grammar, parse_rules
from ftmech_hf.tasks.rules import Production

RECURSIVE = Grammar(
    *parse_rules(
        {"root": "s", "terminals": ["a", "b"], "rules": {"s": {"a s b": 0.3, "t": 0.7}, "t": {"a": 0.5, "b b": 0.5}}}
    )
)


def enumerate_strings(grammar: Grammar, symbol: str | None = None) -> dict[tuple[str, ...], float]:
    """Every string that a symbol (the root) derives, with its probability."""
    symbol = symbol or grammar.root
    if symbol not in grammar.rules:
        return {(symbol,): 1.0}
    found: Counter[tuple[str, ...]] = Counter()
    for rhs, probability in grammar.rules[symbol]:
        for parts in itertools.product(*(enumerate_strings(grammar, part).items() for part in rhs)):
            total = probability
            for _, share in parts:
                total *= share
            found[tuple(itertools.chain.from_iterable(string for string, _ in parts))] += total
    return dict(found)


def enumerate_windows(grammar: Grammar, length: int) -> dict[tuple[str, ...], float]:
    """Every window of that length with its probability, as ``Grammar.sample_windows`` draws them."""
    long_enough = {text: p for text, p in enumerate_strings(grammar).items() if len(text) >= length}
    windows: Counter[tuple[str, ...]] = Counter()
    for text, p in long_enough.items():
        starts = len(text) - length + 1
        for start in range(starts):
            windows[text[start : start + length]] += p / starts / sum(long_enough.values())
    return dict(windows)


@st.composite
def small_grammars(draw: st.DrawFn) -> Grammar:
    """Three levels of rules over two letters: ambiguous, of mixed depth, with unequal probabilities."""
    below = ["a", "b"]
    rules: dict[str, tuple[Production, ...]] = {}
    for symbol, longest in (("v", 3), ("u", 2), ("s", 2)):  # small enough to enumerate every derivation
        right = st.lists(st.sampled_from(below), min_size=1, max_size=longest).map(tuple)
        group = draw(st.lists(right, min_size=1, max_size=2 if symbol != "s" else 3, unique=True))
        weights = draw(st.lists(st.integers(1, 4), min_size=len(group), max_size=len(group)))
        rules[symbol] = tuple((rhs, weight / sum(weights)) for rhs, weight in zip(group, weights, strict=True))
        below = [*below, symbol]
    return Grammar(rules, ("a", "b"), "s")
