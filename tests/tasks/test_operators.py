from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ftmech_hf.tasks import operators
from ftmech_hf.tasks.grammar import load_grammar

TEXTS = arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(2, 30)), elements=st.integers(0, 2))


def count_by_hand(row: list[int], operand: int, window: int) -> int:
    return sum(symbol == operand for symbol in row[-window:])


def count_pair_by_hand(row: list[int], operand: int, window: int) -> int:
    last = row[-window:]
    return sum(last[place] == operand and last[place + 1] == operand for place in range(len(last) - 1))


def index_by_hand(row: list[int], operand: int, occurrence: int) -> int:
    for distance in range(1, len(row) + 1):
        if sum(symbol == operand for symbol in row[-distance:]) == occurrence:
            return distance
    return operators.NOT_FOUND


def index_pair_by_hand(row: list[int], operand: int, occurrence: int) -> int:
    seen = 0
    for second in range(len(row) - 1, 0, -1):
        seen += row[second] == operand == row[second - 1]
        if seen == occurrence:
            return len(row) - second
    return operators.NOT_FOUND


BY_HAND: dict[str, Callable[[list[int], int, int], int]] = {
    "count": count_by_hand,
    "count_pair": count_pair_by_hand,
    "index": index_by_hand,
    "index_pair": index_pair_by_hand,
}


@pytest.mark.parametrize("name", BY_HAND)
@given(TEXTS, st.integers(0, 2), st.integers(1, 12))
def test_every_operator_agrees_with_its_definition(name: str, text: np.ndarray, operand: int, parameter: int) -> None:
    found = getattr(operators, name)(text, operand, parameter)
    assert found.tolist() == [BY_HAND[name](row, operand, parameter) for row in text.tolist()]


@pytest.mark.parametrize("name", BY_HAND)
def test_thousands_of_the_papers_texts(name: str) -> None:
    text, _ = load_grammar("jain", "s").sample_windows(np.random.default_rng(0), 2000, 250)
    operand = np.arange(2000) % 3
    for parameter in (6, 40):
        found = getattr(operators, name)(text, operand, parameter)
        assert found.tolist() == [BY_HAND[name](r, o, parameter) for r, o in zip(text.tolist(), operand, strict=True)]


def test_pairs_overlap_and_must_lie_in_the_window() -> None:
    text = np.array([[0, 0, 0, 1]])
    assert operators.count_pair(text, 0, 4).tolist() == [2]
    assert operators.count_pair(text, 0, 3).tolist() == [1]
    assert operators.count_pair(text, 0, 2).tolist() == [0]
    assert operators.index_pair(text, 0, 1).tolist() == [2]
    assert operators.index_pair(text, 0, 2).tolist() == [3]
    assert operators.index_pair(text, 0, 3).tolist() == [operators.NOT_FOUND]


@given(TEXTS, st.data())
def test_token_at(text: np.ndarray, data: st.DataObject) -> None:
    position = data.draw(st.integers(1, text.shape[1]))
    assert operators.token_at(text, position).tolist() == [row[len(row) - position] for row in text.tolist()]
