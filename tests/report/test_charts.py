"""Axes of pictures say what they should, also where there is little to draw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.jobs.figures import _map_panels, draw_training
from ftmech_hf.report.alt import describe_figure
from ftmech_hf.report.charts import new_figure, whole_numbers
from ftmech_hf.studies.continual.figures import draw_frontier
from ftmech_hf.studies.retrieval import figures as retrieval_figures
from ftmech_hf.studies.retrieval.inside import ANOTHER, NEEDED
from ftmech_hf.studies.retrieval.inside_figures import draw_inside
from ftmech_hf.studies.safety import figures as safety_figures


@pytest.mark.parametrize("last", [0, 2, 30])
def test_layers_are_marked_by_whole_numbers_even_if_there_is_one(last: int) -> None:
    figure = new_figure(4, 3)
    ax = figure.subplots()
    ax.plot(range(last + 1), [0.0] * (last + 1), "o")
    whole_numbers(ax.xaxis)
    marks = [mark for mark in ax.get_xticks() if ax.get_xlim()[0] <= mark <= ax.get_xlim()[1]]
    assert marks
    assert [mark % 1 for mark in marks] == [0.0] * len(marks)


def test_the_bar_of_a_map_is_pointed_where_it_is_cut_off() -> None:
    figure, _ = _map_panels({"base": np.array([[0.0, 0.4]]), "tuned": np.array([[0.9, 0.0]])}, highest=0.5, height=1)
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    assert [cast(Any, bar)._colorbar.extend for bar in bars] == ["neither", "max", "max"]


@pytest.mark.parametrize(("last", "scale"), [(0.5, "linear"), (0.01, "log")])
def test_a_loss_far_below_another_is_not_pressed_flat(last: float, scale: str) -> None:
    ax = new_figure(3, 3).subplots()
    lines = [{"step": step, "loss/a": 1.0, "loss/b": loss} for step, loss in ((0, 1.0), (9, last))]
    run = SimpleNamespace(metrics=lines)
    draw_training(ax, cast(Any, run), "Training")
    assert ax.get_yscale() == scale


@pytest.mark.parametrize("module", [retrieval_figures, safety_figures])
def test_models_side_by_side_are_told_apart_by_hue_and_marker(module: Any) -> None:
    colors = getattr(module, "SHOWN", None) or module.COLORS
    assert list(module.MARKERS) == list(colors)
    assert len({*module.MARKERS.values()}) == len({*colors.values()}) == len(colors)


def test_what_is_named_beside_its_point_is_named_in_words_too() -> None:
    numbers = pd.DataFrame({"method": ["plain", "replay"], "seed": [0, 0], "learned": [0.9, 0.8],
                            "concept_loss": [0.7, 0.2]})  # fmt: skip
    text = describe_figure(draw_frontier(numbers))
    assert "plain 70% at 90%; replay 20% at 80%" in text
    heads = [{"model": "base", "seed": 0, "what": "attention", "of": of, "layer": 1, "head": head, "value": value}
             for of, value in ((NEEDED, 0.5), (ANOTHER, 0.1)) for head in (0, 1)]  # fmt: skip
    text = describe_figure(draw_inside(pd.DataFrame(heads)))
    assert "base 50%; base, another value 10%" in text
