from __future__ import annotations

import pytest

from ftmech_hf.analysis.path import PathResult, accuracy_barrier


def test_a_barrier_is_what_lies_below_the_line_between_the_ends() -> None:
    positions = [0, 0.25, 0.5, 0.75, 1, 1.5, 2]
    accuracy = [1.0, 0.7, 0.3, 0.4, 0.2, 0.1, 1.0]
    assert accuracy_barrier(positions, accuracy) == pytest.approx(0.6 - 0.3)
    assert accuracy_barrier(positions, accuracy, 1) == pytest.approx(0.6 - 0.1)
    assert accuracy_barrier([0, 0.5, 1], [1.0, 0.75, 0.5]) == 0
    assert accuracy_barrier([0, 0.5, 1], [0.5, 1.0, 0.5]) == 0  # a hill is no barrier
    with pytest.raises(ValueError, match="lack an end of piece 2"):
        accuracy_barrier(positions, accuracy, 2)


def test_the_table_has_every_point_of_every_test_set() -> None:
    result = PathResult([0, 0.5, 1, 1.5, 2], {"a": [1.0, 0.2, 0.0, 0.5, 1.0], "b": [0.0, 0.5, 1.0, 0.5, 0.0]}, "way")
    assert len(result.rows()) == 10
    assert result.rows()[1] == {"path": "way", "test_set": "a", "position": 0.5, "accuracy": 0.2}
    assert result.summary() == {"a": [pytest.approx(0.3), pytest.approx(0)], "b": [0, 0]}
