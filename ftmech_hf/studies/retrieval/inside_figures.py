"""Pictures of what is inside the models of the study of retrieval: what is read, attended to and carried over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftmech_hf.report.charts import (
    BASE,
    FINETUNED,
    accuracy_axis,
    legend_below,
    new_figure,
    percent,
    styled,
    whole_numbers,
)
from ftmech_hf.studies.retrieval.figures import MARKERS, SHOWN
from ftmech_hf.studies.retrieval.inside import ANOTHER, NEEDED, OTHER_ROW, VALUE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {**SHOWN, "random": "#b8bec9"}
MARKS = {**MARKERS, "random": "P"}
SITES = {"resid_post": ("whole stream", BASE), "attn_out": ("attention", FINETUNED), "mlp_act": ("MLP", "#2b8a3e")}


@styled
def draw_inside(table: pd.DataFrame) -> Figure:
    """What probes read after every layer, and how much heads attend to the needed value; mean over seeds, by model.

    Args:
        table: ``model``, ``seed``, and the columns of :func:`~ftmech_hf.studies.retrieval.inside.look_inside`.
    """
    figure = new_figure(9.5, 4.2)
    read, looked = figure.subplots(1, 2)
    models = [each for each in COLORS if each in set(table["model"])]
    for model in models:
        _means(read, table, model, "probe", VALUE, "-")
    if "base" in models:
        _means(read, table, "base", "probe", OTHER_ROW, "--")
    read.set_title("value read by a probe")
    read.set_xlabel("after layer")
    whole_numbers(read.xaxis)
    accuracy_axis(read, "read right")
    heads = table[table["what"] == "attention"]
    places = sorted(set(zip(heads["layer"], heads["head"], strict=True)))
    for model in models:
        for of, style in ((NEEDED, f"{MARKS[model]}-"), (ANOTHER, "x:")):
            rows = heads[(heads["model"] == model) & (heads["of"] == of)]
            means = rows.groupby(["layer", "head"])["value"].mean().reindex(places)
            name = model if of == NEEDED else f"{model}, another value"
            looked.plot(range(len(places)), means.to_numpy(), style, color=COLORS[model], markersize=4, linewidth=1,
                        label=name)  # fmt: skip
    looked.set_xticks(range(len(places)), [f"{layer}.{head}" for layer, head in places])
    looked.set_title("attention on the needed value (x: another)")
    looked.set_xlabel("layer.head")
    looked.set_ylim(-0.03, 1.03)
    percent(looked.yaxis)
    legend_below(read)
    return figure


def _means(ax: Axes, table: pd.DataFrame, model: str, what: str, of: str, style: str) -> None:
    rows = table[(table["model"] == model) & (table["what"] == what) & (table["of"] == of)]
    means = rows.groupby("layer")["value"].mean()
    label = model if style == "-" else f"{model}, {of}"
    ax.plot(means.index, means.to_numpy(), style, marker=MARKS[model], markersize=4, color=COLORS[model], label=label)


@styled
def draw_patching(table: pd.DataFrame, models: Sequence[str]) -> Figure:
    """Right answers of fine-tuned models that compute with the base's activations at one place, by layer.

    Args:
        table: rows of diagnoses, with ``tuned`` and ``seed``.
        models: a panel each.
    """
    figure = new_figure(4.4 * len(models) + 0.6, 3.8)
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    found = table[(table["analysis"] == "patching") & (table["model"] == "base into fine-tuned")]
    for ax, tuned in zip(panels, models, strict=True):
        for site, (label, color) in SITES.items():
            rows = found[(found["tuned"] == tuned) & (found["site"] == site)]
            for quantity, style, called in (("same row", "-", label), ("other row", ":", f"{label}, another question")):
                means = rows[rows["quantity"] == quantity].groupby("layer")["value"].mean()
                if len(means):
                    ax.plot(means.index, means.to_numpy(), style, marker="o", markersize=4, color=color, label=called)
        ax.set_title(tuned)
        ax.set_xlabel("patched layer")
        whole_numbers(ax.xaxis)
        accuracy_axis(ax, "right")
    legend_below(panels[0])
    return figure
