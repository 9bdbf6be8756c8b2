"""Pictures of the organisms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ftmech_hf.report.charts import BASE, FINETUNED, new_figure, styled
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.organisms.scoring import RIVALS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABELS = {
    "probability": "all signs together", "uds": "unlearning depth", "cka": "CKA", "lens": "logit lens",
    "probe": "probe", "revival": "revival, log ratio", "disjoint": "answers not taught",
}  # fmt: skip


@styled
def scores_figure(pairs: pd.DataFrame) -> Figure:
    """What each method says of every hidden and every gone pair, one panel a method.

    Args:
        pairs: the test pairs.
    """
    names = ["probability", *RIVALS]
    figure = new_figure(8.0, 5.2)
    panels = figure.subplots(2, math.ceil(len(names) / 2)).flat
    for ax in panels[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(panels, names, strict=False):
        for place, (truth, color) in enumerate((("hidden", BASE), ("gone", FINETUNED))):
            values = pairs[pairs["truth"] == truth][name].dropna().to_numpy(dtype=float)
            shift = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(len(values))
            ax.plot(place + shift, values, "o", color=color, markersize=4, label=truth)
        ax.set_xticks([0, 1], ["hidden", "gone"])
        ax.set_xlim(-0.5, 1.5)
        ax.set_title(LABELS[name], fontsize=9)
    return figure


@styled
def reliability_figure(pairs: pd.DataFrame) -> Figure:
    """Of pairs by their probability to be hidden, how many are; on the diagonal it is what it says.

    Args:
        pairs: the test pairs.
    """
    figure = new_figure(7.2, 3.6)
    ax = figure.subplots()
    lost = pairs[pairs["truth"].isin(["hidden", "gone"]) & pairs["probability"].notna()]
    bins = np.clip((5 * lost["probability"].to_numpy(dtype=float)).astype(int), 0, 4)
    for each in range(5):
        inside = lost[bins == each]
        if len(inside):
            share = share_interval(int((inside["truth"] == "hidden").sum()), len(inside))
            ends = [[share.value - share.low], [share.high - share.value]]
            ax.errorbar([inside["probability"].mean()], [share.value], yerr=ends, fmt="o", color=BASE,
                        label=f"{len(inside)} pairs")  # fmt: skip
            ax.annotate(f"{len(inside)}", (inside["probability"].mean(), share.value), (4, 4),
                        textcoords="offset points", fontsize=8)  # fmt: skip
    (diagonal,) = ax.plot([0, 1], [0, 1], ":", color="#111827", linewidth=1, label="what it says")
    ax.set(xlabel="probability that it is hidden", ylabel="share that is", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    ax.legend([diagonal], ["what it says"], loc="upper center", bbox_to_anchor=(0.5, -0.17))
    return figure
