"""Axes of pictures say what they should, also where there is little to draw."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ftmech_hf.config import Notice
from ftmech_hf.jobs.figures import _map_panels, draw_training
from ftmech_hf.report.alt import describe_figure
from ftmech_hf.report.charts import new_figure, save_beside, whole_numbers
from ftmech_hf.studies.continual.figures import draw_frontier
from ftmech_hf.studies.retrieval import figures as retrieval_figures
from ftmech_hf.studies.retrieval.inside import ANOTHER, NEEDED
from ftmech_hf.studies.retrieval.inside_figures import draw_inside
from ftmech_hf.studies.safety import figures as safety_figures


def test_a_picture_beside_a_run_is_whole_or_the_one_before_and_no_reason_to_show_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, figure = cast(Any, SimpleNamespace(path=tmp_path / "run")), new_figure(1, 1)
    path = save_beside(figure, run, "-mlp")
    assert path == tmp_path / "run-mlp.png"
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def savefig(figure: object, place: Path, **given: object) -> None:
        Path(place).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.warns(Notice, match=r"run-mlp\.png cannot be written: No space left on device"):
        assert save_beside(figure, run, "-mlp") is None
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


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
