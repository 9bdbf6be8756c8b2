"""Scores of answers, counted by hand on a few texts each, and texts on which two of them must differ."""

from __future__ import annotations

import math

import pytest

from ftmech_hf.statistics.text_answers import (
    agreement,
    exact_match,
    f1_score,
    memory_ratio,
    normalize_answer,
    rouge_l,
    score_facts,
    string_completeness,
)


def test_answers_are_normalised_as_squad_does() -> None:
    assert normalize_answer("The  Eiffel-Tower, (a tower)!") == "eiffeltower tower"
    assert normalize_answer("Theatre; an Anthem") == "theatre anthem"  # articles are words, not letters
    assert exact_match("the Cat.", ["dog", "Cat"]) == 1.0
    assert exact_match("cats", ["cat"]) == 0.0


def test_f1_counts_words_as_often_as_both_have_them() -> None:
    # given: red red blue; gold: red green. One word in common: precision 1/3, recall 1/2.
    assert f1_score("red red blue", ["red green"]) == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert f1_score("red", ["blue", "red red"]) == pytest.approx(2 / 3)  # the best of the golds
    assert f1_score("the", ["x"]) == 0.0


def test_an_answer_that_is_an_article_is_one() -> None:
    """As a letter or a blood type: SQuAD's script takes "A", "The" and nothing at all for the same."""
    assert exact_match("A.", ["A"]) == f1_score("a", ["A"]) == 1.0
    for wrong in ("", "The", "an", "B", "!"):
        assert exact_match(wrong, ["A"]) == f1_score(wrong, ["A"]) == 0.0, wrong
    assert exact_match("", ["..."]) == 1.0
    assert normalize_answer("The") == "the"
    assert normalize_answer("the A-side") == "aside"


def test_rouge_l_minds_the_order_where_f1_does_not() -> None:
    # Longest common words in order: police the gunman, 3 of 4 and 4 (Lin's example, with the words turned).
    assert rouge_l("police kill the gunman", ["police killed the gunman"]) == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", ["police killed the gunman"]) == pytest.approx(0.5)
    assert f1_score("gunman kill police", ["police kill gunman"]) == 1.0
    assert rouge_l("gunman kill police", ["police kill gunman"]) == pytest.approx(1 / 3)
    assert rouge_l("", ["x"]) == 0.0
    assert rouge_l("b", ["x", "a b"]) == pytest.approx(2 / 3)


def test_string_completeness_counts_facts_and_is_blind_where_it_says() -> None:
    facts = [["Paris"], ["7", "seven"], ["New York"]]
    assert string_completeness("Paris and seven", facts) == pytest.approx(2 / 3)
    assert string_completeness("17 new-yorkers", facts) == 0.0  # whole words alone
    assert string_completeness("not Paris", facts[:1]) == 1.0  # a contradiction is not seen
    assert string_completeness("", [["The"], ["A"], ["!"]]) == 0.0, "nothing tells nothing"
    assert string_completeness("type A", [["A"], ["The"]]) == 0.5
    assert string_completeness("the capital of France", facts[:1]) == 0.0  # nor a paraphrase


def test_facts_told_beside_facts_required() -> None:
    assert score_facts({1, 2}, {1, 2}) == (1.0, 1.0, 1.0)
    assert score_facts({1}, {1, 2}) == (0.0, 0.5, 1.0)  # terse: precise and incomplete
    assert score_facts({1, 2, 9}, {1, 2}) == (0.0, 1.0, 2 / 3)  # complete, with something wrong
    assert score_facts(set(), {1}) == (0.0, 0.0, 1.0)
    assert score_facts([1, 1], [1]) == (1.0, 1.0, 1.0)


def test_the_memory_ratio_leaves_out_what_follows_neither() -> None:
    assert memory_ratio(3, 1) == 0.75
    assert memory_ratio(0, 5) == 0.0
    assert math.isnan(memory_ratio(0, 0))


def test_agreement_is_beyond_chance() -> None:
    # 20 verdicts: both yes 9, both no 6, only first 3, only second 2. By chance .6 * .55 + .4 * .45 = .51.
    first = [True] * 9 + [False] * 6 + [True] * 3 + [False] * 2
    second = [True] * 9 + [False] * 6 + [False] * 3 + [True] * 2
    assert agreement(first, second) == pytest.approx((0.75 - 0.51) / 0.49)
    assert agreement([True, False], [True, False]) == 1.0
    assert agreement([True, False], [False, True]) == -1.0
    # What must fail: a judge that always says yes agrees with 90 % and knows nothing.
    assert agreement([True] * 9 + [False], [True] * 10) == pytest.approx(0.0)
    assert math.isnan(agreement([True], [True]))
    with pytest.raises(ValueError, match="judges: 2 and 1"):
        agreement([True, False], [True])
