"""Axes of pictures say what they should, also where there is little to draw."""

from __future__ import annotations

import pytest

from ftmech_hf.report.charts import new_figure, whole_numbers


@pytest.mark.parametrize("last", [0, 2, 30])
def test_layers_are_marked_by_whole_numbers_even_if_there_is_one(last: int) -> None:
    figure = new_figure(4, 3)
    ax = figure.subplots()
    ax.plot(range(last + 1), [0.0] * (last + 1), "o")
    whole_numbers(ax.xaxis)
    marks = [mark for mark in ax.get_xticks() if ax.get_xlim()[0] <= mark <= ax.get_xlim()[1]]
    assert marks
    assert [mark % 1 for mark in marks] == [0.0] * len(marks)
