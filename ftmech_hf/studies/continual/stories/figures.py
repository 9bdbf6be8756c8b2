"""Pictures of the second sequence: how often each feature that is deleted is written, task after task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftmech_hf.report.charts import (
    BASE,
    CONTROL,
    FINETUNED,
    RANDOM,
    accuracy_axis,
    legend_of_all,
    new_figure,
    seed_lines,
    styled,
)
from ftmech_hf.studies.continual.stories.plan import CONTROLS, DELETED, FIRST

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STYLES = {
    FIRST: (FINETUNED, "-"), "ldifs-previous": (CONTROL, "-"), "ldifs-base": (CONTROL, "--"), "replay": (BASE, "-"),
    "ldifs-random": (RANDOM, ":"), "replay-faint": (RANDOM, "--"), "nothing": (RANDOM, "-"),
    "twist-alone": (RANDOM, "-."),
}  # fmt: skip
"""Colour and dashes of each chain; grey are controls."""

assert {name for name, (color, _) in STYLES.items() if color == RANDOM} == set(CONTROLS)


@styled
def draw_deletions(table: pd.DataFrame, chains: Sequence[str]) -> Figure:
    """One panel a deleted feature: how often it is written when asked for, after each task; seeds pale.

    Args:
        table: by behaviour, where asked: ``method``, ``seed``, ``after_task``, ``capability``, ``value``.
        chains: in the order of the legend.
    """
    figure = new_figure(4.2 * len(DELETED), 3.8)
    for ax, feature in zip(figure.subplots(1, len(DELETED), squeeze=False).flat, DELETED, strict=True):
        for name in chains:
            rows = table[table["method"].isin(("base", name)) & (table["capability"] == feature)]
            curves = [each.set_index("after_task")["value"].sort_index() for _, each in rows.groupby("seed")]
            color, style = STYLES[name]
            seed_lines(ax, curves, name, color, style)
        steps = range(len(DELETED) + 1)
        ax.set_xticks(steps, ["base", *(f"after {each}" for each in DELETED)], rotation=25, ha="right")
        ax.set_title(feature)
        accuracy_axis(ax, "stories that have it, when asked")
    legend_of_all(figure)
    return figure
