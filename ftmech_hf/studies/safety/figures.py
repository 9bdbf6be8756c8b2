"""Pictures of the study of safety fine-tuning: what models answer, and how attacks succeed; means, and each seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ftmech_hf.report.charts import (
    BASE,
    CONTROL,
    FINETUNED,
    RANDOM,
    accuracy_axis,
    legend_of_all,
    percent,
    styled,
    whole_numbers,
)
from ftmech_hf.report.charts import new_figure as blank_figure
from ftmech_hf.tasks.safety import SAFE_TWINS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "ssft": FINETUNED, "ssft-half": "#7c3aed", "dpo": BASE, "unlearn": CONTROL, "never-ssft": RANDOM,
}  # fmt: skip
MARKERS = dict(zip(COLORS, "os^DX", strict=True))
"""So that models are told apart without their colors, too."""
DIAL = ("safe", "co_text_1", "co_text_2", "co_text_3", "co_text_4", "unsafe")


def draw_points(ax: Axes, x: Sequence[float], values: pd.DataFrame, color: str, label: str, style: str) -> None:
    """The mean over seeds as a line of points, and every seed as a pale point; columns of ``values`` stand at ``x``."""
    for row in values.to_numpy():
        ax.plot(x, row, style, color=color, alpha=0.3, markersize=3, linewidth=0)
    ax.plot(x, values.mean(axis=0).to_numpy(), style, color=color, label=label, markersize=6)


@styled
def draw_answers(table: pd.DataFrame) -> Figure:
    """For every model: safe prompts that are answered, unsafe ones that are answered, and unsafe ones that are refused.

    Args:
        table: ``seed``, ``model``, ``mixture``, ``unsafe`` and shares; models stand in its order.
    """
    models = list(dict.fromkeys(table["model"]))
    figure = blank_figure(8, 0.4 * len(models) + 1.6)
    ax = figure.subplots()
    places = np.arange(len(models))[::-1]
    whole = table[table["unsafe"] == "all"]
    for off, mixture, answer, label, color, style in (
        (0.2, "safe", "complies_whole", "answers safe prompts", BASE, "o"),
        (0.0, "unsafe", "complies_whole", "answers unsafe prompts", FINETUNED, "s"),
        (-0.2, "unsafe", "refuses_whole", "refuses unsafe prompts", CONTROL, "^"),
    ):
        shares = whole[whole["mixture"] == mixture].pivot_table(index="seed", columns="model", values=answer)
        shares = shares.reindex(columns=list(models))
        for row in shares.to_numpy():
            ax.plot(row, places + off, style, color=color, alpha=0.3, markersize=3)
        ax.plot(shares.mean(axis=0).to_numpy(), places + off, style, color=color, label=label, markersize=5)
    ax.set_yticks(places, list(models))
    ax.set_xlim(-0.03, 1.03)
    percent(ax.xaxis)
    legend_of_all(figure, ncols=5)
    return figure


def _of_model(shares: pd.DataFrame, model: str) -> pd.DataFrame:
    """The rows of a model; the index is model and seed."""
    return shares[shares.index.get_level_values("model") == model]


def _side_by_side(ax: Axes, success: pd.DataFrame, columns: Sequence[str]) -> None:
    """Shares of every model at some columns of ``success`` (model and seed), beside each other."""
    models = [model for model in COLORS if model in success.index.get_level_values("model")]
    for number, model in enumerate(models):
        places = [place + 0.12 * (number - (len(models) - 1) / 2) for place in range(len(columns))]
        values = _of_model(success, model).reindex(columns=list(columns))
        draw_points(ax, places, values, COLORS[model], model, MARKERS[model])
    ax.set_xticks(range(len(columns)), list(columns))


@styled
def draw_attacks(table: pd.DataFrame) -> Figure:
    """Success of CO-Text by its strength, between safe and unsafe texts; of the others; and answers to what is new."""
    figure = blank_figure(13, 4)
    dial, others, new = figure.subplots(1, 3)
    by_text = table[(table["unsafe"] == "all") | ((table["mixture"] == "unsafe") & (table["unsafe"] == "by text"))]
    by_text = by_text[(by_text["mixture"] != "unsafe") | (by_text["unsafe"] == "by text")]
    answered = by_text.pivot_table(index=["model", "seed"], columns="mixture", values="complies_whole")
    for model in [name for name in COLORS if name in answered.index.get_level_values("model")]:
        shares = _of_model(answered, model).reindex(columns=list(DIAL))
        draw_points(dial, range(len(DIAL)), shares, COLORS[model], model, f"{MARKERS[model]}-")
    dial.set_xticks(range(len(DIAL)), ["safe", "1", "2", "3", "4", "all"])
    dial.set_xlabel("safe prompts; phrases of the unsafe kind in the text")
    _side_by_side(others, answered, ("co_task", "misgen", "ood_text"))
    _side_by_side(new, answered, tuple(SAFE_TWINS.values()))
    for ax, title in ((dial, "CO-Text, by its strength"), (others, "Other attacks"), (new, "Safe prompts as new")):
        ax.set_title(title)
        accuracy_axis(ax, "answered as instructed" if ax is dial else "")
    legend_of_all(figure, ncols=5)
    return figure


@styled
def draw_stages(table: pd.DataFrame) -> Figure:
    """How far attacks come: to the first token, to the whole answer, and to its rest where three tokens are given."""
    figure = blank_figure(13, 4)
    kinds = ("unsafe", "co_task", "co_text_2", "misgen", "ood_text")
    parts = {"first": "First token", "whole": "Whole answer", "after_3": "The rest, after three right tokens"}
    whole = table[table["unsafe"] == "all"]
    for ax, (part, title) in zip(figure.subplots(1, len(parts), sharey=True), parts.items(), strict=True):
        shares = whole.pivot_table(index=["model", "seed"], columns="mixture", values=f"complies_{part}")
        _side_by_side(ax, shares, kinds)
        ax.set_title(title)
        accuracy_axis(ax, "answered as instructed" if part == "first" else "")
    legend_of_all(figure, ncols=5)
    return figure


@styled
def draw_clusters(table: pd.DataFrame) -> Figure:
    """Share of prompts on the safe side by layer, one panel a model.

    Args:
        table: ``seed``, ``model``, ``mixture``, ``layer``, ``kinds``, ``answers`` and ``safe_side``.
    """
    models = list(dict.fromkeys(table["model"]))
    figure = blank_figure(2.7 * len(models), 3.4)
    for ax, model in zip(figure.subplots(1, len(models), sharey=True, squeeze=False)[0], models, strict=True):
        for mixture, kinds, answers, color, label, style in (
            ("safe", "own", "all", BASE, "safe", "o-"),
            ("unsafe", "own", "all", FINETUNED, "unsafe", "s-"),
            ("unsafe", "by chance", "all", FINETUNED, "unsafe, means of kinds by chance", "x:"),
            ("co_text_2", "own", "succeeded", CONTROL, "attack that succeeded", "^-"),
            ("co_text_2", "own", "failed", RANDOM, "attack that failed", "v-"),
        ):
            columns = ["model", "mixture", "kinds", "answers"]
            rows = table[(table[columns] == [model, mixture, kinds, answers]).all(axis=1)]
            shares = rows.pivot_table(index="seed", columns="layer", values="safe_side")
            if len(shares):
                draw_points(ax, [float(each) for each in shares.columns], shares, color, label, style)
        ax.set_title(model)
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel("layer")
        whole_numbers(ax.xaxis)
        percent(ax.yaxis)
    legend_of_all(figure, ncols=5)
    return figure
