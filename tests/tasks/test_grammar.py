from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from ftmech_hf.tasks.grammar import GRAMMARS, Grammar, load_grammar


def enumerate_strings(grammar: Grammar, symbol: str) -> dict[str, float]:
    """Every string a symbol derives, with its probability, by brute force."""
    if symbol not in grammar.rules:
        return {symbol: 1.0}
    found: Counter[str] = Counter()
    for rhs in grammar.rules[symbol]:
        for parts in itertools.product(*(enumerate_strings(grammar, part).items() for part in rhs)):
            text = "".join(part for part, _ in parts)
            found[text] += float(np.prod([p for _, p in parts])) / len(grammar.rules[symbol])
    return dict(found)


def sample_strings(grammar: Grammar, number: int, seed: int = 0) -> list[str]:
    symbols, starts = grammar.sample(np.random.default_rng(seed), number)
    words = [grammar.terminals[t] for t in symbols]
    return ["".join(words[a:b]) for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize("root", ["d", "h", "k"])
def test_samples_follow_the_enumerated_distribution(root: str) -> None:
    grammar = load_grammar("jain", root)
    expected = enumerate_strings(grammar, root)
    number = 20_000
    seen = Counter(sample_strings(grammar, number))
    assert set(seen) <= set(expected)
    observed = [seen[text] for text in expected]
    assert stats.chisquare(observed, [p * number for p in expected.values()]).pvalue > 1e-3


def test_the_check_above_can_fail() -> None:
    grammar = load_grammar("jain", "h")
    skewed = Grammar({**GRAMMARS["jain"], "d": [("c", "a"), ("c", "a"), ("a", "b", "c")]}, "h")
    expected, number = enumerate_strings(grammar, "h"), 20_000
    seen = Counter(sample_strings(skewed, number))
    observed = [seen[text] for text in expected]
    assert stats.chisquare(observed, [p * number for p in expected.values()]).pvalue < 1e-6


def test_membership_agrees_with_enumeration() -> None:
    grammar = load_grammar("jain", "g")
    language = set(enumerate_strings(grammar, "g"))
    rng = np.random.default_rng(0)
    for text in language:
        assert grammar.contains(text)
        position = int(rng.integers(len(text)))
        for letter in "abc":
            edited = text[:position] + letter + text[position + 1 :]
            assert grammar.contains(edited) == (edited in language)
    assert not grammar.contains("")
    assert not grammar.contains("abcabc" * 5)


def test_whole_strings_of_the_nano_root_are_in_the_grammar() -> None:
    grammar = load_grammar("jain", "m")
    for text in sample_strings(grammar, 10):
        assert grammar.contains(text)
        assert not grammar.contains(text[:10] + "aaaa" + text[14:])  # no rule makes four in a row


def test_the_papers_grammar_has_the_measured_lengths() -> None:
    lengths = np.array([len(text) for text in sample_strings(load_grammar("jain", "s"), 3000)])
    assert abs(lengths.mean() - 274) < 3
    assert 0.2 < (lengths < 250).mean() < 0.3
    assert lengths.min() > 150
    assert lengths.max() < 400


def test_windows_are_pieces_of_strings_and_start_anywhere() -> None:
    grammar = load_grammar("jain", "g")
    language = enumerate_strings(grammar, "g")
    length = 6
    windows = grammar.sample_windows(np.random.default_rng(0), 20_000, length)
    seen = Counter("".join(grammar.terminals[t] for t in row) for row in windows)
    expected: Counter[str] = Counter()
    long_enough = {text: p for text, p in language.items() if len(text) >= length}
    for text, p in long_enough.items():
        starts = len(text) - length + 1
        for start in range(starts):
            expected[text[start : start + length]] += p / starts / sum(long_enough.values())
    assert set(seen) <= set(expected)
    observed = [seen[text] for text in expected]
    assert stats.chisquare(observed, [p * 20_000 for p in expected.values()]).pvalue > 1e-3


def test_impossible_windows_and_roots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text_length: strings of root 'd' are .* never 4 symbols long"):
        load_grammar("jain", "d").sample_windows(np.random.default_rng(0), 5, 4)
    with pytest.raises(ValueError, match="root: 'a' has no rules"):
        load_grammar("jain", "a")
    with pytest.raises(ValueError, match="grammar: unknown 'chomsky', expected one of jain"):
        load_grammar("chomsky", "s")
