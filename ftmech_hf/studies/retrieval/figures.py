"""Pictures of the study of retrieval: right answers by what stands beside a question and by what was taught."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, RANDOM, legend_below, new_figure, percent, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

CONTEXTS = {"none": "no documents", "bm25": "found by BM25", "tfidf": "found by TF-IDF", "oracle": "the needed ones",
            "swapped": "with another value"}  # fmt: skip
SHOWN = {"base": BASE, "closed-full-2": FINETUNED, "closed-terse-2": "#2b8a3e", "retrieved-full-2": CONTROL,
         "closed-full-replay": "#7c3aed", "heart": RANDOM}  # fmt: skip
MARKERS = dict(zip(SHOWN, "os^vDX", strict=True))
"""So that models are told apart without their colors, too."""


@styled
def draw_contexts(table: pd.DataFrame) -> Figure:
    """Right answers of some models, a panel for people who were held out and one for what was taught.

    Args:
        table: of four documents: ``model``, ``seed``, ``people``, ``context`` and ``right``.
    """
    figure = new_figure(9.5, 4.4)
    panels = figure.subplots(1, 2, sharey=True, width_ratios=[5, 4])
    for ax, (people, title) in zip(panels, (("held_out", "people who were held out"), ("taught", "what was taught")),
                                   strict=True):  # fmt: skip
        rows = table[table["people"] == people]
        there = [each for each in CONTEXTS if each in set(rows["context"])]
        for number, (model, color) in enumerate(SHOWN.items()):
            of_model = rows[rows["model"] == model]
            places = np.arange(len(there)) + 0.12 * (number - (len(SHOWN) - 1) / 2)
            by_seed = of_model.pivot_table(index="seed", columns="context", values="right").reindex(columns=there)
            for values in by_seed.to_numpy():
                ax.plot(places, values, MARKERS[model], color=color, alpha=0.35, markersize=3)
            ax.plot(places, by_seed.mean().to_numpy(), MARKERS[model], color=color, markersize=6, label=model)
        ax.set_xticks(range(len(there)), [CONTEXTS[each].replace(" ", "\n", 1) for each in there], fontsize=8)
        ax.set_title(title)
        ax.set_ylim(-0.03, 1.03)
        percent(ax.yaxis)
    legend_below(panels[0])
    return figure


@styled
def draw_sizes(table: pd.DataFrame) -> Figure:
    """Right answers with what a search finds, and of what was taught without documents, by how many were taught.

    Args:
        table: of models that were tuned on full answers: ``tuned`` (what with), ``clock``, ``questions``, ``seed``,
            ``found`` and ``taught``, shares.
    """
    figure = new_figure(8, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    lines = (("closed", "epochs", FINETUNED, "-"), ("closed", "steps", FINETUNED, "--"),
             ("retrieved", "epochs", CONTROL, "-"))  # fmt: skip
    for ax, column, title in zip(panels, ("found", "taught"), ("held out, found by BM25", "taught, no documents"),
                                 strict=True):  # fmt: skip
        for tuned, clock, color, style in lines:
            rows = table[(table["tuned"] == tuned) & (table["clock"] == clock)]
            means = rows.groupby("questions")[column].mean()
            ax.plot(means.index, means.to_numpy(), style, marker="o", color=color, label=f"{tuned}, same {clock}")
            ax.plot(rows["questions"], rows[column], "o", color=color, alpha=0.35, markersize=3)
        ax.set_title(title)
        ax.set_xlabel("questions that were taught")
        ax.set_ylim(-0.03, 1.03)
        percent(ax.yaxis)
    legend_below(panels[0])
    return figure


@styled
def draw_places(table: pd.DataFrame) -> Figure:
    """Right answers by the place of the needed document, and by how many documents a search gives.

    Args:
        table: questions for one fact: ``model``, ``context``, ``top_k``, ``gold_at`` and ``right``.
    """
    figure = new_figure(8, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    parts = (("gold_at", table[table["gold_at"] >= 0], "place of the needed document"),
             ("top_k", table[table["context"] == "bm25"], "documents that BM25 finds"))  # fmt: skip
    for ax, (column, rows, label) in zip(panels, parts, strict=True):
        for model, color in SHOWN.items():
            means = rows[rows["model"] == model].groupby(column)["right"].mean()
            ax.plot(means.index, means.to_numpy(), f"{MARKERS[model]}-", color=color, label=model, markersize=4)
        ax.set_xlabel(label)
        places = sorted(set(rows[column]))
        ax.set_xticks(places, [str(each + (column == "gold_at")) for each in places])  # people count from one
        ax.set_ylim(-0.03, 1.03)
        percent(ax.yaxis)
    legend_below(panels[0])
    return figure


@styled
def draw_rates(table: pd.DataFrame) -> Figure:
    """What is learned by heart and what reading is left, by the rate of fine-tuning, in full and by an adapter.

    Args:
        table: ``rate``, ``lora``, ``found`` (right, held out, found by BM25) and ``taught`` (right, without documents),
            shares.
    """
    figure = new_figure(8, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for ax, lora, title in zip(panels, (False, True), ("all weights", "an adapter"), strict=True):
        rows = table[table["lora"] == lora].sort_values("rate")
        for column, label, color, style in (("found", "held out, found by BM25", BASE, "o-"),
                                            ("taught", "taught, no documents", FINETUNED, "s-")):  # fmt: skip
            ax.plot(rows["rate"], rows[column], style, color=color, label=label, markersize=4)
        ax.set_xscale("log")
        ax.set_xlabel("peak rate")
        ax.set_title(title)
        ax.set_ylim(-0.03, 1.03)
        percent(ax.yaxis)
    legend_below(panels[0])
    return figure
