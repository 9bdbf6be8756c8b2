from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ftmech_hf.tasks import operators

TEXTS = arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(1, 30)), elements=st.integers(0, 2))


@given(TEXTS, st.integers(0, 2), st.integers(1, 40))
def test_count(text: np.ndarray, operand: int, window: int) -> None:
    expected = [sum(symbol == operand for symbol in list(row)[-window:]) for row in text]
    assert operators.count(text, operand, window).tolist() == expected


@given(TEXTS, st.integers(0, 2), st.integers(1, 8))
def test_index(text: np.ndarray, operand: int, occurrence: int) -> None:
    def slow(row: list[int]) -> int:
        seen = 0
        for distance, symbol in enumerate(reversed(row), start=1):
            seen += symbol == operand
            if seen == occurrence:
                return distance
        return operators.NOT_FOUND

    assert operators.index(text, operand, occurrence).tolist() == [slow(list(row)) for row in text]


@given(TEXTS, st.data())
def test_token_at(text: np.ndarray, data: st.DataObject) -> None:
    position = data.draw(st.integers(1, text.shape[1]))
    assert operators.token_at(text, position).tolist() == [row[len(row) - position] for row in text.tolist()]


@given(TEXTS)
def test_every_row_may_have_its_own_operand(text: np.ndarray) -> None:
    operands = np.arange(len(text)) % 3
    for function in (operators.count, operators.index):
        together = function(text, operands, 2)
        assert together.tolist() == [function(row[None], o, 2)[0] for row, o in zip(text, operands, strict=True)]
