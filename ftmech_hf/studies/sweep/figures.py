"""Pictures of a sweep, in the manner of the paper's: panels by the axes of the grid, lines with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ftmech_hf.report.charts import (
    FLOOR_LABEL,
    FLOOR_STYLE,
    floor_curve,
    legend_of_all,
    new_figure,
    percent,
    styled,
    whole_numbers,
)
from ftmech_hf.studies.sweep.numbers import after_last_step
from ftmech_hf.studies.sweep.sections import FigureConfig, check_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNTED = ("steps_to_revival", "pruned/neurons")
MAX_LETTERS = 40
"""Of all names below an axis that are written side by side."""

NUMBERS = ("n", "mean", "low", "high", "floor", "lead")
"""What a summary says of each metric."""

LINES, MARKERS = ("-", "--", ":", "-."), "osD^vP"


def _check(summary: pd.DataFrame, axes: Sequence[str], config: FigureConfig) -> None:
    check_axes(config, axes)
    there = summary[summary["stage"] == config.stage]["metric"].unique()
    for metric in config.metrics:
        if metric not in there:
            raise ValueError(f"figures: {config.title}: no {metric!r} in {config.stage}, only {', '.join(there)}")


def _levels(rows: pd.DataFrame, name: str) -> list[Any]:
    return list(rows[name].unique()) if name else [None]


def _pick(rows: pd.DataFrame, name: str, level: Any) -> pd.DataFrame:
    return rows[rows[name] == level] if name else rows


@styled
def draw_figure(summary: pd.DataFrame, axes: Sequence[str], config: FigureConfig) -> Figure:
    """Draw one picture.

    Args:
        summary: see :func:`ftmech_hf.studies.sweep.results.summarise`.
        axes: of the grid.
        config: what to draw.

    Raises:
        ValueError: it names an axis or a metric that is not there.
    """
    _check(summary, axes, config)
    rows = summary
    for name, label in config.only.items():
        rows = rows[rows[name] == label]
    if config.kind == "frontier":
        return _frontier(rows, config)
    rows = rows[rows["stage"] == config.stage]
    rows = rows[rows["metric"].isin(config.metrics or rows["metric"].unique())]
    if config.x != "step":  # the numbers after the last step
        rows = after_last_step(rows)
    down, across = _levels(rows, config.rows), _levels(rows, config.columns)
    # of all panels: a line has one colour and a label one place, also where a run is missing
    levels = {name: _levels(rows, name) for name in (config.color, config.style, config.x)}
    width, height = max(5.0, 3.1 * len(across) + 1.2), max(3.6, 2.3 * len(down) + 1.0)
    figure = new_figure(width, height)
    grid: Any = figure.subplots(len(down), len(across), sharex=True, sharey=True, squeeze=False)
    for i, one in enumerate(down):
        for j, other in enumerate(across):
            ax = grid[i][j]
            _lines(ax, _pick(_pick(rows, config.rows, one), config.columns, other), config, levels)
            ax.set_title(", ".join(str(level) for level in (one, other) if level is not None) or config.title)
            if i == len(down) - 1:
                ax.set_xlabel(_x_label(config))
            if j == 0 and not set(config.metrics) & set(COUNTED):
                ax.set_ylabel("loss (nats per token)" if _are_losses(config) else "accuracy")
    longest = max((len(label) for ax in figure.axes for label in ax.get_legend_handles_labels()[1]), default=0)
    legend_of_all(figure, max(1, min(4, int(width / (0.075 * longest + 0.7)))))  # inches of a letter, and of a line
    return figure


def _are_losses(config: FigureConfig) -> bool:
    return any(metric.startswith("loss/") for metric in config.metrics)


def _x_label(config: FigureConfig) -> str:
    return "blocks passed" if (config.x, config.stage) == ("step", "probe") else config.x


def _lines(ax: Axes, rows: pd.DataFrame, config: FigureConfig, levels: Mapping[str, Sequence[Any]]) -> None:
    ticks = [str(label) for label in levels[config.x]] if config.x != "step" else []
    for number, color in enumerate(levels[config.color]):
        for other, style in enumerate(levels[config.style]):
            line = _pick(_pick(rows, config.color, color), config.style, style)
            if line.empty:
                continue
            x = line["step"] if config.x == "step" else [ticks.index(str(label)) for label in line[config.x]]
            label = ", ".join(str(level) for level in (color, style) if level is not None)
            ax.plot(x, line["mean"], LINES[other % 4], color=f"C{number}", marker=".", label=label)
            floor_curve(ax, x, line.get("floor", pd.Series(dtype=float)), label, f"C{number}")
            ax.fill_between(x, line["low"], line["high"], color=f"C{number}", alpha=0.15, linewidth=0)
    if config.x == "step" and config.stage == "probe":
        whole_numbers(ax.xaxis)
    elif config.x == "step":
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        ax.set_xticks(range(len(ticks)), ticks)
        if sum(map(len, ticks)) > MAX_LETTERS:  # side by side they would lie on one another
            ax.tick_params(axis="x", labelrotation=30)
            for tick in ax.get_xticklabels():
                tick.set(ha="right", rotation_mode="anchor")
    if set(config.metrics) & set(COUNTED):
        ax.set_ylim(bottom=0)
    elif not _are_losses(config):
        lost = any(metric.startswith("change/") for metric in config.metrics)
        ax.set_ylim(None if lost else -0.03, 1.03)
        percent(ax.yaxis)


def _frontier(rows: pd.DataFrame, config: FigureConfig) -> Figure:
    figure = new_figure(6.4, 5.2)
    ax = figure.subplots()
    first, second = config.metrics
    color = "" if config.color == "metric" else config.color  # a point is of both metrics
    for number, level in enumerate(_levels(rows, color)):
        chosen = _pick(rows, color, level)
        name = config.stage if level is None else str(level)
        for stage, style in ((config.stage, ""), ("interpolate", "-")):
            points = chosen[chosen["stage"] == stage]
            if stage == config.stage:
                points = after_last_step(points[points["step"].notna()])
            keys = [name for name in rows.columns if name not in ("metric", *NUMBERS)]
            wide = points.pivot_table(index=keys, columns="metric", values=["mean", "low", "high"], sort=False)
            if wide.empty or first not in wide["mean"] or second not in wide["mean"]:
                continue
            x, y = wide["mean"][first], wide["mean"][second]
            if style:
                ax.plot(x, y, style, color=f"C{number}", alpha=0.5, label=f"{name}, interpolated", linewidth=1)
                continue
            marker = MARKERS[number % len(MARKERS)]
            ax.plot(x, y, "--", color=f"C{number}", marker=marker, label=name, linewidth=0.8)
            if "low" in wide:
                errors = [(y - wide["low"][second]).clip(lower=0), (wide["high"][second] - y).clip(lower=0)]
                ax.errorbar(x, y, yerr=errors, fmt="none", ecolor=f"C{number}", alpha=0.4, linewidth=1)
    for name, draw in ((first, ax.axvline), (second, ax.axhline)):
        of_points = after_last_step(rows[(rows["metric"] == name) & (rows["stage"] == config.stage)])
        floors = of_points["floor"].dropna()
        if len(floors):
            label = FLOOR_LABEL if name == first else f"_{FLOOR_LABEL}, {name}"
            draw(float(floors.mean()), color="#374151", label=label, **FLOOR_STYLE)
    for axis, name in ((ax.xaxis, first), (ax.yaxis, second)):
        percent(axis)
        axis.set_label_text(name)
    ax.set_title(config.title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    return figure
