"""What the pictures of a diagnosis share: colors and names of the models, lines with their intervals, axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, legend_below, whole_numbers
from ftmech_hf.studies.diagnosis.case import OTHER_SEED, SELF_DISTILLED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OTHER = "#2b8a3e"
NULL_MODELS = {SELF_DISTILLED: "#0d9488", OTHER_SEED: "#9333ea"}
"""Models that differ from the base without a meaning, which are drawn dotted."""
COLORS = {"base": BASE, "fine-tuned": FINETUNED, "reference": CONTROL, **NULL_MODELS}
DOTTED = (0, (1, 2))
KINDS = (("capability", "the capability", FINETUNED), ("other", "what was taught", OTHER))
"""Kinds of questions: as the table calls them, as a legend does, and their colors."""


def reference_name(reference: str) -> str:
    """What the reference is called in a legend."""
    return "random weights" if reference == RANDOM_INIT else "control"


def describe_reference(reference: str) -> str:
    """What the reference is, in a sentence."""
    if reference == RANDOM_INIT:
        return "the same architecture with random weights"
    return f"{reference}, a model that is said never to have had the capability"


def name_model(model: str, reference: str) -> str:
    """What a model of the table is called in a legend."""
    return reference if model == "reference" else model


def pick(rows: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows


def line(
    ax: Axes,
    rows: pd.DataFrame,
    x: str,
    label: str,
    color: str,
    style: Any = "-",
    *,
    marker: str = "o",
    band: bool = True,
) -> None:
    """The values of rows against their column ``x``, with a band of their intervals if they have any."""
    rows = rows.sort_values(x)
    ax.plot(
        rows[x], rows["value"], linestyle=style, color=color, label=label, marker=marker, markersize=4, linewidth=1.8
    )
    if band and rows["low"].notna().any():
        ax.fill_between(
            rows[x], rows["low"].astype(float), rows["high"].astype(float), color=color, alpha=0.15, linewidth=0
        )


def marks(ax: Axes, rows: pd.DataFrame, x: str, color: str, marker: str = "s", label: str = "") -> None:
    """The values of rows at their column ``x``, each with its interval."""
    for _, each in rows.iterrows():
        interval = [[each["value"] - each["low"]], [each["high"] - each["value"]]]
        ax.errorbar(each[x], each["value"], yerr=interval, fmt=marker, color=color, capsize=3, label=label or None)


def spread(ax: Axes, rows: pd.DataFrame, color: str) -> None:
    """A band from the lowest to the highest of what was measured several times at the same place."""
    if len(found := rows.groupby("x")["value"].agg(["min", "max", "count"])) and found["count"].max() > 1:
        ax.fill_between(found.index, found["min"], found["max"], color=color, alpha=0.15, linewidth=0)


def null_model_lines(
    ax: Axes, rows: pd.DataFrame, x: str, *, column: str = "model", called: str = "{}", label: str = "{}", **wanted: str
) -> None:
    """Lines of the models that differ from the base without a meaning, as ``column`` of the rows calls them."""
    for name, color in NULL_MODELS.items():
        if len(each := pick(rows, **{column: called.format(name)}, **wanted)):
            line(ax, each, x, label.format(name), color, DOTTED, marker=".", band=False)


def layer_axis(ax: Axes, name: str = "block") -> None:
    """An axis of whole numbers."""
    ax.set_xlabel(name)
    whole_numbers(ax.xaxis)


def kinds_axis(ax: Axes, kinds: Sequence[str]) -> None:
    """An axis with one place for each kind of questions."""
    names = {kind: name for kind, name, _ in KINDS}
    ax.set_xticks(range(len(kinds)), [names[kind] for kind in kinds])


def from_zero(ax: Axes, title: str) -> None:
    """A title, an axis that begins at 0, and a legend."""
    ax.set_title(title)
    ax.set_ylim(bottom=0)
    legend_below(ax)
