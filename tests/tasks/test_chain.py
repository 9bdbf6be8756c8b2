from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings

from ftmech_hf.tasks.chain import GrammarChain
from ftmech_hf.tasks.grammar import Grammar, load_grammar, parse_rules
from ftmech_hf.tasks.parsing import parse
from tests.tasks.grammars import RECURSIVE, enumerate_strings, enumerate_windows, small_grammars


def next_by_enumeration(strings: Mapping[tuple[str, ...], float], prefix: tuple[str, ...]) -> dict[str | None, float]:
    """Distribution of what follows a prefix among enumerated strings; None is the end."""
    found: dict[str | None, float] = {}
    for text, probability in strings.items():
        if text[: len(prefix)] == prefix:
            symbol = text[len(prefix)] if len(text) > len(prefix) else None
            found[symbol] = found.get(symbol, 0.0) + probability
    return {symbol: p / sum(found.values()) for symbol, p in found.items()}


def as_ids(grammar: Grammar, text: tuple[str, ...]) -> np.ndarray:
    return np.array([[grammar.terminals.index(symbol) for symbol in text]], int).reshape(1, -1)


@given(small_grammars())
@settings(max_examples=40, deadline=None)
def test_next_symbols_of_whole_strings_agree_with_enumeration(grammar: Grammar) -> None:
    chain, strings = GrammarChain(grammar), enumerate_strings(grammar)
    for text, probability in list(strings.items())[:10]:
        result = chain.next_symbol(as_ids(grammar, text))
        assert not result.error.any()
        for place in range(len(text) + 1):
            expected = next_by_enumeration(strings, text[:place])
            found = dict(zip([*grammar.terminals, None], result.probabilities[0, place], strict=True))
            assert found == pytest.approx({**dict.fromkeys(found, 0.0), **expected})
        end = result.probabilities[0, len(text), -1]
        assert np.exp(result.log_likelihood[0]) * end == pytest.approx(probability)


@given(small_grammars())
@settings(max_examples=40, deadline=None)
def test_next_symbols_of_windows_agree_with_enumeration(grammar: Grammar) -> None:
    chain = GrammarChain(grammar)
    for width in (1, 2, 4):
        windows = enumerate_windows(grammar, width)
        if not windows:
            with pytest.raises(ValueError, match=f"text_length: strings of root 's' are never {width} symbols long"):
                chain.window_next_symbol(np.zeros((1, width), int))
            continue
        texts = list(windows)[:10]
        result = chain.window_next_symbol(np.concatenate([as_ids(grammar, text) for text in texts]))
        for row, text in enumerate(texts):
            assert np.exp(result.log_likelihood[row]) == pytest.approx(windows[text])
            for place in range(width):
                expected = next_by_enumeration(windows, text[:place])
                found = dict(zip(grammar.terminals, result.probabilities[row, place], strict=True))
                assert found == pytest.approx({**dict.fromkeys(found, 0.0), **expected})


def test_the_end_of_the_window_matters() -> None:
    """A control: whole-string probabilities, which ignore start, end and length condition, must be caught."""
    grammar = load_grammar("jain", "g")
    window = max(enumerate_windows(grammar, 6).items(), key=lambda entry: entry[1])[0]
    chain, ids = GrammarChain(grammar), as_ids(grammar, window)
    true, naive = chain.window_next_symbol(ids), chain.next_symbol(ids)
    assert np.abs(true.probabilities[0, 0] - naive.probabilities[0, 0, :3]).max() > 0.05


def test_the_papers_windows_agree_with_monte_carlo() -> None:
    grammar = load_grammar("jain", "s")
    drawn, _ = grammar.sample_windows(np.random.default_rng(0), 40_000, 250)
    context = drawn[0, :4]
    follow = drawn[(drawn[:, :4] == context).all(axis=1), 4]
    result = GrammarChain(grammar).window_next_symbol(drawn[:1])
    assert not result.error.any()
    for symbol, share in enumerate(result.probabilities[0, 4]):
        spread = np.sqrt(share * (1 - share) / len(follow))
        assert abs((follow == symbol).mean() - share) <= 4 * spread + 1e-9
    first = np.bincount(drawn[:, 0], minlength=3) / len(drawn)
    assert np.abs(first - result.probabilities[0, 0]).max() < 0.01


def test_batches_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = load_grammar("jain", "m")
    windows, _ = grammar.sample_windows(np.random.default_rng(0), 5, 32)
    chain = GrammarChain(grammar)
    together = chain.window_next_symbol(windows)
    monkeypatch.setattr("ftmech_hf.tasks.chain.BATCH_NUMBERS", 1)
    single = chain.window_next_symbol(windows)
    np.testing.assert_allclose(single.probabilities, together.probabilities, rtol=1e-12)


def test_a_recursive_grammar_is_exact_within_its_stated_error() -> None:
    complete, cut = GrammarChain(RECURSIVE), GrammarChain(RECURSIVE, max_states=6)
    assert 0 < complete.total_lost < 1e-12
    assert 1e-4 < cut.total_lost < 0.1
    for text in ("abbb", "aaabb", "bb"):
        result = parse(RECURSIVE, text)
        assert result is not None
        exact = complete.next_symbol(as_ids(RECURSIVE, tuple(text)))
        likelihood = np.exp(exact.log_likelihood[0]) * exact.probabilities[0, -1, -1]
        assert likelihood == pytest.approx(result.string_probability)
    prefix = as_ids(RECURSIVE, tuple("aaa"))
    exact, bounded = complete.next_symbol(prefix), cut.next_symbol(prefix)
    off = np.abs(exact.probabilities - bounded.probabilities).max(axis=-1)
    assert (off <= bounded.error + 1e-12).all()
    assert off.max() > 0.01  # the cut must show, or the bound is not tested


def test_left_recursion_ends() -> None:
    rules = {"root": "s", "terminals": ["a", "b"], "rules": {"s": {"s a": 0.4, "b": 0.6}}}
    chain = GrammarChain(Grammar(*parse_rules(rules)))
    result = chain.next_symbol(np.array([[1, 0, 0]]))
    np.testing.assert_allclose(result.probabilities[0], [[0, 1, 0], [0.4, 0, 0.6], [0.4, 0, 0.6], [0.4, 0, 0.6]])
    assert result.error.max() < 1e-6


def test_after_an_impossible_symbol_nothing_is_known() -> None:
    grammar = load_grammar("jain", "g")
    result = GrammarChain(grammar).next_symbol(np.array([[0, 0, 0, 0, 0]]))
    assert np.isnan(result.probabilities[0, -1]).all()
    assert result.log_likelihood[0] == -np.inf
