from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from scipy import stats

from ftmech_hf.tasks.grammar import PRESETS, Grammar, inline_grammar, load_grammar, parse_rules, preset_names
from ftmech_hf.tasks.parsing import parse
from tests.tasks.grammars import RECURSIVE, enumerate_strings, enumerate_windows, small_grammars


def sample_strings(grammar: Grammar, number: int, seed: int = 0) -> list[tuple[str, ...]]:
    symbols, starts, _ = grammar.sample(np.random.default_rng(seed), number)
    words = [grammar.terminals[t] for t in symbols]
    return [tuple(words[a:b]) for a, b in itertools.pairwise(starts)]


def goodness_of_fit(samples: list[tuple[str, ...]], expected: dict[tuple[str, ...], float]) -> float:
    seen = Counter(samples)
    assert set(seen) <= set(expected)
    if len(expected) == 1:
        return 1.0
    return float(stats.chisquare([seen[t] for t in expected], [p * len(samples) for p in expected.values()]).pvalue)


@pytest.mark.parametrize("root", ["d", "h", "k"])
def test_samples_follow_the_enumerated_distribution(root: str) -> None:
    grammar = load_grammar("jain", root)
    assert goodness_of_fit(sample_strings(grammar, 20_000), enumerate_strings(grammar)) > 1e-3


def test_level_by_level_and_table_sampling_follow_the_same_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftmech_hf.tasks.sampling.MAX_TABLE", 4)
    grammar = Grammar(*parse_rules(yaml.safe_load((PRESETS / "jain.yaml").read_text())))
    below = Grammar(grammar.rules, grammar.terminals, "h")
    assert goodness_of_fit(sample_strings(below, 20_000), enumerate_strings(below)) > 1e-3


def test_the_check_above_can_fail() -> None:
    grammar = load_grammar("jain", "h")
    skewed = Grammar({**grammar.rules, "d": ((("c", "a"), 2 / 3), (("a", "b", "c"), 1 / 3))}, grammar.terminals, "h")
    assert goodness_of_fit(sample_strings(skewed, 20_000), enumerate_strings(grammar)) < 1e-6


@given(small_grammars())
@settings(max_examples=30, deadline=None)
def test_any_grammar_is_sampled_as_it_says(grammar: Grammar) -> None:
    # 30 tests at 1e-6 each; expected counts below 5 are too few for the chi-squared approximation at this level
    expected = enumerate_strings(grammar)
    common = {text: p for text, p in expected.items() if p * 4000 >= 20}
    samples = sample_strings(grammar, 4000)
    assert set(samples) <= set(expected)
    rest = 1 - sum(common.values())
    observed = [sum(text == each for text in samples) for each in common]
    if rest > 0.005 and common:
        counts, shares = [*observed, 4000 - sum(observed)], [*common.values(), rest]
        assert stats.chisquare(counts, np.array(shares) / sum(shares) * 4000).pvalue > 1e-6


def test_a_recursive_grammar_ends_and_follows_its_probabilities() -> None:
    samples = sample_strings(RECURSIVE, 20_000)
    for text in ("a", "bb", "aab", "abbb", "aaabb"):
        share = 0.7 * 0.5 * 0.3 ** ((len(text) - (1 if text.count("a") > text.count("b") else 2)) // 2)
        assert stats.binomtest(samples.count(tuple(text)), 20_000, share).pvalue > 1e-4, text


def test_ancestors_are_those_of_a_derivation() -> None:
    for grammar in (load_grammar("jain", "m"), RECURSIVE):
        symbols, starts, above = grammar.sample(np.random.default_rng(0), 30, ancestors=True)
        plain, *_ = grammar.sample(np.random.default_rng(0), 30)
        assert above is not None
        assert (plain == symbols).all()
        for a, b in itertools.pairwise(starts):
            result = parse(grammar, [grammar.terminals[t] for t in symbols[a:b]])
            assert result is not None
            # both grammars have one derivation per string, so the parser must find the one that was drawn
            assert result.probability == pytest.approx(result.string_probability)
            table = result.ancestors(grammar)
            assert (above[: len(table), a:b] == table).all()
            assert (above[len(table) :, a:b] == -1).all()


def test_ancestors_of_windows_are_cut_with_them() -> None:
    grammar = load_grammar("jain", "m")
    windows, above = grammar.sample_windows(np.random.default_rng(0), 500, 32, ancestors=True)
    assert above is not None
    assert above.shape == (500, 4, 32)
    assert (above[:, 0] == grammar.symbols.index("m")).all()
    parents = {grammar.symbols[n]: {grammar.terminals[t] for t in windows[above[:, 3] == n]} for n in (14, 15)}
    assert all(found <= set("abc") for found in parents.values())
    for level in range(3):
        for parent, child in np.unique(np.stack([above[:, level].ravel(), above[:, level + 1].ravel()]), axis=1).T:
            right_sides = [rhs for rhs, _ in grammar.rules[grammar.symbols[parent]]]
            assert any(grammar.symbols[child] in rhs for rhs in right_sides)


def test_the_papers_grammar_has_the_measured_lengths() -> None:
    lengths = np.array([len(text) for text in sample_strings(load_grammar("jain", "s"), 3000)])
    assert abs(lengths.mean() - 274) < 3
    assert 0.2 < (lengths < 250).mean() < 0.3
    assert lengths.min() > 150
    assert lengths.max() < 400


def test_windows_are_pieces_of_strings_and_start_anywhere() -> None:
    grammar = load_grammar("jain", "g")
    windows, _ = grammar.sample_windows(np.random.default_rng(0), 20_000, 6)
    samples = [tuple(grammar.terminals[t] for t in row) for row in windows]
    assert goodness_of_fit(samples, enumerate_windows(grammar, 6)) > 1e-3


def test_impossible_windows_and_roots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"text_length: strings of root 'd' are .* never 4 symbols long"):
        load_grammar("jain", "d").sample_windows(np.random.default_rng(0), 5, 4)
    with pytest.raises(ValueError, match="root: 'a' has no rules"):
        load_grammar("jain", "a")
    with pytest.raises(ValueError, match="grammar: unknown 'chomsky', expected one of jain"):
        load_grammar("chomsky", "s")


GOOD: dict[str, Any] = {"root": "s", "terminals": ["a", "b"], "rules": {"s": ["a t", "t"], "t": {"a": 0.9, "b b": 0.1}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": {"s": ["a x"]}}, "'x' in a production of 's' is neither rule nor terminal"),
        ({"rules": {"s": {"a": 0.5, "b": 0.4}}}, "probabilities of 's' are not above 0 with sum 1 .sum 0.9"),
        ({"rules": {"s": {"a": 1.5, "b": -0.5}}}, "probabilities of 's' are not above 0"),
        ({"rules": {"s": ["a"], "t": ["b"]}}, "root 's' never leads to the rules of t"),
        ({"rules": {"s": ["s s", "a"]}}, "no finite expected length"),
        ({"rules": {"s": {"s s": 0.6, "a": 0.4}}}, "a level of rules multiplies its symbols by 1.2"),
        ({"rules": {"s": ["t"], "t": ["s", "a"]}}, "leads back to .* alone, so a string has endless parses"),
        ({"rules": {"s": ["a", ""]}}, "'s' has an empty production"),
        ({"rules": {"s": ["a"], "a": ["b"]}}, "'a' is a terminal and has rules too"),
        ({"rules": {"s": 3}}, "productions of 's' should be a list"),
        ({"rules": {"s": {"a": "much"}}}, "productions of 's' need a number each"),
        ({"rules": ["s"]}, "expected 'rules' to map symbols"),
        ({"terminals": ["a", "a", "b"]}, "are not different single words"),
        ({"root": "q"}, "root: 'q' has no rules"),
        ({"roots": "q"}, "expected the entries root, terminals and rules, found root, terminals, rules, roots"),
    ],
)
def test_a_bad_grammar_is_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    parse_rules(GOOD)
    with pytest.raises(ValueError, match=message):
        parse_rules({**GOOD, **change})


def test_a_grammar_file_becomes_part_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    inline = inline_grammar(str(path))
    path.unlink()
    assert "\n" not in inline
    assert inline_grammar(inline) == inline
    assert load_grammar(inline) == Grammar(*parse_rules(GOOD))
    with pytest.raises(ValueError, match="grammar: config: cannot read"):
        inline_grammar(str(path))
    (tmp_path / "list.yaml").write_text("- a\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold 'key: value' lines"):
        inline_grammar(str(tmp_path / "list.yaml"))


def test_every_preset_is_valid() -> None:
    assert "jain" in preset_names()
    for name in preset_names():
        load_grammar(name).sample(np.random.default_rng(0), 5)


def test_rules_in_one_line_that_are_no_yaml_are_named() -> None:
    with pytest.raises(ValueError, match=r"grammar: '\{root: ' is not valid YAML: ") as refused:
        load_grammar("{root: ")
    assert "\n" not in str(refused.value)
