from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from ftmech_hf.report.charts import RANDOM
from ftmech_hf.studies.continual.figures import draw_frontier, spread
from ftmech_hf.studies.continual.methods import CONTROLS, METHODS


def test_labels_are_apart_in_order_and_where_their_points_are_if_there_is_room() -> None:
    far = np.array([0.9, 0.1, 0.5])
    assert spread(far, 0.05) == pytest.approx(far)
    near = np.array([0.5, 0.52, 0.5, 0.98, 0.99, 1.0, 0.0])
    found = spread(near, 0.05)
    assert (np.diff(np.sort(found)) >= 0.05 - 1e-12).all()
    assert found.min() >= 0
    assert found.max() <= 1
    assert (np.argsort(found, kind="stable") == np.argsort(near, kind="stable")).all()
    assert np.abs(found - near).max() < 0.16
    assert (np.diff(np.sort(near)) < 0.05).any()  # the control: where they are they would lie on each other


def test_no_two_names_of_the_frontier_lie_on_each_other() -> None:
    """All methods at two places: every name is drawn, readable, inside the picture, and controls are grey."""
    numbers = pd.DataFrame(
        [{"method": method, "seed": seed, "learned": 0.9, "concept_loss": 0.7 + 0.1 * (number % 2) + 0.01 * seed}
         for number, method in enumerate(METHODS) for seed in range(2)]
    )  # fmt: skip
    figure = draw_frontier(numbers)
    figure.draw_without_rendering()
    texts = figure.axes[0].texts
    assert {text.get_text() for text in texts} == set(METHODS)
    boxes = [Text.get_window_extent(text) for text in texts]  # without its line
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert max(box.y1 for box in boxes) <= figure.bbox.y1
    assert min(box.y0 for box in boxes) >= 0
    assert min(box.x0 for box in boxes) > figure.axes[0].get_window_extent().x1  # and on no point
    grey = {text.get_text() for text in texts if text.get_color() == RANDOM}
    assert grey == set(CONTROLS)
