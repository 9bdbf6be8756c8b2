"""Pictures of the study of safety fine-tuning: what models answer, and how attacks succeed; means, and each seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, RANDOM, legend_below, percent, styled, whole_numbers
from ftmech_hf.report.charts import new_figure as blank_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"ssft": FINETUNED, "ssft-half": RANDOM, "dpo": BASE, "unlearn": CONTROL}
DIAL = ("safe", "co_text_1", "co_text_2", "co_text_3", "co_text_4", "unsafe")


def draw_points(ax: Axes, x: Sequence[float], values: pd.DataFrame, color: str, label: str, style: str) -> None:
    """The mean over seeds as a line of points, and every seed as a pale point; columns of ``values`` stand at ``x``."""
    for row in values.to_numpy():
        ax.plot(x, row, style, color=color, alpha=0.3, markersize=3, linewidth=0)
    ax.plot(x, values.mean(axis=0).to_numpy(), style, color=color, label=label, markersize=6)


@styled
def draw_answers(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """For every model: safe prompts that are answered, unsafe ones that are answered, and unsafe ones that are refused.

    Args:
        table: ``seed``, ``model``, ``mixture``, ``unsafe`` and shares.
        models: in the order of the picture, from the top.
    """
    figure = blank_figure(8, 0.4 * len(models) + 1.6)
    ax = figure.subplots()
    places = np.arange(len(models))[::-1]
    whole = table[table["unsafe"] == "all"]
    for mixture, answer, label, color, style in (
        ("safe", "complies_whole", "answers safe prompts", BASE, "o"),
        ("unsafe", "complies_whole", "answers unsafe prompts", FINETUNED, "s"),
        ("unsafe", "refuses_whole", "refuses unsafe prompts", CONTROL, "^"),
    ):
        shares = whole[whole["mixture"] == mixture].pivot_table(index="seed", columns="model", values=answer)
        shares = shares.reindex(columns=list(models))
        for row in shares.to_numpy():
            ax.plot(row, places, style, color=color, alpha=0.3, markersize=3)
        ax.plot(shares.mean(axis=0).to_numpy(), places, style, color=color, label=label, markersize=6)
    ax.set_yticks(places, list(models))
    ax.set_xlim(-0.03, 1.03)
    percent(ax.xaxis)
    legend_below(ax)
    return figure


@styled
def draw_attacks(table: pd.DataFrame) -> Figure:
    """Success of CO-Text by its strength, between safe and unsafe texts; and of the other attacks."""
    figure = blank_figure(11, 4.2)
    dial, others = figure.subplots(1, 2)
    kinds = ("co_task", "misgen", "ood_text")
    by_text = table[(table["unsafe"] == "all") | ((table["mixture"] == "unsafe") & (table["unsafe"] == "by text"))]
    by_text = by_text[(by_text["mixture"] != "unsafe") | (by_text["unsafe"] == "by text")]
    for number, (model, color) in enumerate(COLORS.items()):
        rows = by_text[by_text["model"] == model]
        success = rows.pivot_table(index="seed", columns="mixture", values="complies_whole")
        if success.empty:
            continue
        draw_points(dial, range(len(DIAL)), success.reindex(columns=list(DIAL)), color, model, "o-")
        places = [place + 0.12 * (number - 1.5) for place in range(len(kinds))]
        draw_points(others, places, success.reindex(columns=list(kinds)), color, model, "o")
    dial.set_xticks(range(len(DIAL)), ["none", "1", "2", "3", "4", "all"])
    dial.set_xlabel("phrases of the unsafe kind in the text")
    others.set_xticks(range(len(kinds)), list(kinds))
    for ax, title in ((dial, "CO-Text, by its strength"), (others, "Other attacks")):
        ax.set_ylim(-0.03, 1.03)
        percent(ax.yaxis)
        ax.set_title(title)
        legend_below(ax)
    return figure


@styled
def draw_clusters(table: pd.DataFrame) -> Figure:
    """Share of prompts on the safe side by layer, one panel a model.

    Args:
        table: ``seed``, ``model``, ``mixture``, ``layer``, ``answers`` and ``safe_side``.
    """
    models = list(dict.fromkeys(table["model"]))
    figure = blank_figure(2.7 * len(models), 3.4)
    for ax, model in zip(figure.subplots(1, len(models), sharey=True, squeeze=False)[0], models, strict=True):
        for mixture, answers, color, label in (
            ("safe", "all", BASE, "safe"),
            ("unsafe", "all", FINETUNED, "unsafe"),
            ("co_text_2", "succeeded", CONTROL, "attack that succeeded"),
            ("co_text_2", "failed", RANDOM, "attack that failed"),
        ):
            rows = table[(table["model"] == model) & (table["mixture"] == mixture) & (table["answers"] == answers)]
            shares = rows.pivot_table(index="seed", columns="layer", values="safe_side")
            if len(shares):
                draw_points(ax, list(shares.columns), shares, color, label, "o-")
        ax.set_title(model)
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel("layer")
        whole_numbers(ax.xaxis)
        percent(ax.yaxis)
    legend_below(figure.axes[len(models) // 2])
    return figure
