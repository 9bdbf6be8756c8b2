"""Pictures of the continual study: what models can do after every task, what methods lose and learn, and probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, RANDOM, legend_below, new_figure, percent, styled
from ftmech_hf.studies.continual.methods import CONTROLS
from ftmech_hf.studies.continual.sequences import NEVER_TUNED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@styled
def draw_matrices(
    table: pd.DataFrame,
    methods: Sequence[str],
    names: Sequence[str],
    kept: int = len(NEVER_TUNED),
) -> Figure:  # fmt: skip
    """One panel a method: rows are models after each task, columns capabilities, numbers accuracies; mean over seeds.

    Args:
        table: of one sequence and the base, by behaviour: ``method``, ``after_task``, ``capability``, ``value``.
        methods: in the order of the panels.
        names: of the capabilities, in the order of the columns.
        kept: how many of them come first that no task is about; a line ends them.
    """
    columns = min(3, len(methods))
    lines = -(-len(methods) // columns)
    figure = new_figure(4.4 * columns, 2.9 * lines)
    panels = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).flat
    for ax in panels:
        ax.set_axis_off()
    for ax, method in zip(figure.axes, methods, strict=False):
        ax.set_axis_on()
        rows = table[table["method"].isin(("base", method))]
        means = rows.pivot_table(index="after_task", columns="capability", values="value").reindex(columns=list(names))
        ax.imshow(means.to_numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for line, values in enumerate(means.to_numpy()):
            for place, value in enumerate(values):
                dark = "white" if value > 0.6 else "#111827"
                if np.isnan(value):  # that model was not asked yet
                    continue
                ax.text(place, line, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=dark)
        ax.axvline(kept - 0.5, color="#111827", linewidth=1)
        ax.set_xticks(range(len(names)), [name.replace("_null", "") for name in names], rotation=40, ha="right")
        ax.set_yticks(range(len(means)), [f"task {number}" if number else "base" for number in means.index])
        ax.grid(visible=False)
        ax.set_title(method)
    return figure


@styled
def draw_frontier(numbers: pd.DataFrame) -> Figure:
    """What methods lose of what is never tuned, against what they learn: means over seeds, and each seed, pale.

    Args:
        numbers: ``method``, ``seed``, ``learned`` and ``concept_loss``, shares.
    """
    figure = new_figure(7.5, 5.2)
    ax = figure.subplots()
    means = numbers.groupby("method", sort=False)[["learned", "concept_loss"]].mean()
    colors = {str(method): _color_of(str(method)) for method in means.index}
    for method, color in colors.items():
        each, mean = numbers[numbers["method"] == method], means.loc[method]
        ax.plot(each["learned"], each["concept_loss"], "o", color=color, alpha=0.3, markersize=3)
        ax.plot(mean["learned"], mean["concept_loss"], "o", color=color, markersize=7, label=method)
    low, high = ax.get_ylim()
    heights = spread((means["concept_loss"].to_numpy() - low) / (high - low), 0.045)
    for (method, color), height in zip(colors.items(), heights, strict=True):
        ax.annotate(
            method, (means.loc[method, "learned"], means.loc[method, "concept_loss"]), (1.03, height),
            textcoords="axes fraction", va="center", fontsize=8, color=color,
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.4, "linewidth": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip
    for axis, label in ((ax.xaxis, "accuracy on a task right after it"), (ax.yaxis, "loss of what is never tuned")):
        percent(axis)
        axis.set_label_text(label)
    return figure


def _color_of(method: str) -> str:
    if method in CONTROLS:
        return RANDOM
    return FINETUNED if method == "plain" else CONTROL if "ldifs" in method else BASE


def spread(heights: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Heights (N,) of labels, in the order of what they name and near it, no two nearer than ``gap``, within 0 to 1."""
    order = np.argsort(heights, kind="stable")
    ranks = gap * np.arange(len(order))
    above = np.maximum.accumulate(np.maximum(heights[order], 0) - ranks)
    found = np.empty_like(heights)
    found[order] = np.minimum(above, 1 - gap * (len(order) - 1)) + ranks
    return found


@styled
def draw_probes(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """What is never tuned, after the last task: by answers, and by probes at the best layer and at the final norm.

    Args:
        table: of those models alone: ``method``, ``seed``, ``by``, ``site`` and ``value``.
        methods: in the order of the picture, from the top.
    """
    figure = new_figure(8, 0.36 * len(methods) + 1.6)
    ax = figure.subplots()
    places = np.arange(len(methods))[::-1]
    for by, site, label, color, style in (
        ("behaviour", "", "answers", FINETUNED, "o"), ("probe", "best", "probe, best layer", CONTROL, "s"),
        ("probe", "final norm", "probe, final norm", BASE, "^"),
    ):  # fmt: skip
        rows = table[(table["by"] == by) & (table["site"] == site)]
        if rows.empty:
            continue
        shares = rows.pivot_table(index="seed", columns="method", values="value").reindex(columns=list(methods))
        for row in shares.to_numpy():
            ax.plot(row, places, style, color=color, alpha=0.3, markersize=3)
        ax.plot(shares.mean(axis=0).to_numpy(), places, style, color=color, label=label, markersize=6)
    ax.set_yticks(places, list(methods))
    ax.set_xlim(-0.03, 1.03)
    percent(ax.xaxis)
    legend_below(ax)
    return figure
