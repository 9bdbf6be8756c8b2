from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings

from ftmech_hf.tasks.grammar import Grammar, load_grammar, parse_rules
from ftmech_hf.tasks.parsing import Tree, contains, parse
from tests.tasks.grammars import RECURSIVE, enumerate_strings, small_grammars


def yield_of(tree: Tree | str) -> list[str]:
    return [tree] if isinstance(tree, str) else [leaf for child in tree[1] for leaf in yield_of(child)]


def probability_of(grammar: Grammar, tree: Tree | str) -> float:
    """Of one derivation; fails if it uses a rule that does not exist."""
    if isinstance(tree, str):
        return 1.0
    rhs = tuple(child if isinstance(child, str) else child[0] for child in tree[1])
    result = dict(grammar.rules[tree[0]])[rhs]
    for child in tree[1]:
        result *= probability_of(grammar, child)
    return result


def derivations(grammar: Grammar, symbol: str) -> list[tuple[tuple[str, ...], float]]:
    """Every derivation as (string, probability)."""
    if symbol not in grammar.rules:
        return [((symbol,), 1.0)]
    found = []
    for rhs, probability in grammar.rules[symbol]:
        for parts in itertools.product(*(derivations(grammar, child) for child in rhs)):
            shares = [share for _, share in parts]
            text = tuple(itertools.chain.from_iterable(string for string, _ in parts))
            found.append((text, probability * float(np.prod(shares))))
    return found


@given(small_grammars())
@settings(max_examples=40, deadline=None)
def test_probabilities_and_best_parses_agree_with_enumeration(grammar: Grammar) -> None:
    if len(derivations(grammar, "s")) > 500:
        return
    language = enumerate_strings(grammar)
    for text, probability in list(language.items())[:20]:
        result = parse(grammar, text)
        assert result is not None
        assert result.string_probability == pytest.approx(probability)
        assert result.probability == pytest.approx(max(p for t, p in derivations(grammar, "s") if t == text))
        assert yield_of(result.tree) == list(text)
        assert probability_of(grammar, result.tree) == pytest.approx(result.probability)
    for text in itertools.product("ab", repeat=3):
        assert contains(grammar, text) == (text in language)


def test_an_ambiguous_string_has_one_best_parse_and_the_sum_of_all() -> None:
    rules = {"root": "s", "terminals": ["a"], "rules": {"s": {"s s": 0.25, "a": 0.75}}}
    result = parse(Grammar(*parse_rules(rules)), "aaaa")
    assert result is not None
    one = 0.25**3 * 0.75**4
    assert result.probability == pytest.approx(one)
    assert result.string_probability == pytest.approx(5 * one)  # the third Catalan number of binary trees


def test_membership_agrees_with_enumeration() -> None:
    grammar = load_grammar("jain", "g")
    language = set(enumerate_strings(grammar))
    rng = np.random.default_rng(0)
    for text in language:
        assert contains(grammar, text)
        position = int(rng.integers(len(text)))
        for letter in "abc":
            edited = (*text[:position], letter, *text[position + 1 :])
            assert contains(grammar, edited) == (edited in language)
    assert not contains(grammar, "")
    assert not contains(grammar, "abcabc" * 5)
    assert not contains(grammar, "xyz")


def test_a_long_recursive_string_is_parsed() -> None:
    text = "a" * 100 + "bb" + "b" * 100
    result = parse(RECURSIVE, text)
    assert result is not None
    assert result.probability == pytest.approx(0.3**100 * 0.7 * 0.5)
    assert result.ancestors(RECURSIVE).shape == (102, 202)
    assert not contains(RECURSIVE, text + "b")


def test_whole_strings_of_the_papers_grammar_are_members_and_damaged_ones_are_not() -> None:
    grammar = load_grammar("jain", "s")
    symbols, starts, _ = grammar.sample(np.random.default_rng(0), 2)
    for a, b in itertools.pairwise(starts):
        text = [grammar.terminals[t] for t in symbols[a:b]]
        assert contains(grammar, text)
        assert not contains(grammar, [*text[:10], *"aaaa", *text[14:]])  # no rule makes four in a row
