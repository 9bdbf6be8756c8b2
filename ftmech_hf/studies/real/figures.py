"""Pictures of the real study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ftmech_hf.report.charts import BASE, FINETUNED, new_figure, percent, styled
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.figures import reference_name
from ftmech_hf.studies.diagnosis.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def verdicts_figure(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy of base and tuned model by pair, with what was expected and the verdict below.

    Args:
        pairs: of :func:`~ftmech_hf.studies.real.results.gather`.
    """
    figure = new_figure(4.4, 0.62 * len(pairs) + 1.3)  # one below the other, to be read on a phone as well
    ax = figure.subplots()
    places = np.arange(len(pairs))
    for number, (model, label, color) in enumerate(
        (("base", "SmolLM2", BASE), ("finetuned", "after tuning", FINETUNED))
    ):
        shares = [pair["accuracy"][model] for pair in pairs]
        value, low, high = (np.array([share[key] for share in shares]) for key in ("value", "low", "high"))
        ax.barh(places + 0.4 * (number - 0.5), value, 0.36, color=color, label=label)
        ax.errorbar(value, places + 0.4 * (number - 0.5), xerr=[value - low, high - value], fmt="none",
                    ecolor="#111827", elinewidth=1)  # fmt: skip
    for place, pair in zip(places, pairs, strict=True):
        ax.vlines(pair["chance"], place - 0.45, place + 0.45, color="#111827", linestyles="dotted", linewidth=1.2)
    ax.set_yticks(places, [_name(pair) for pair in pairs], fontsize=8)
    ax.invert_yaxis()
    ax.set_xlim(-0.01, 1.01)
    percent(ax.xaxis)
    ax.set_xlabel("accuracy")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def example_figure(run: FinishedRun) -> Figure:
    """What a diagnosis of one pair found, in two of the pictures of its page.

    Args:
        run: the diagnosis.
    """
    reference = reference_name(run.summary["facts"]["reference"])
    shown = (("behaviour", "What both answer"), ("revival", "Training it back, asked about others"))
    figure = new_figure(9.0, 3.6)
    for ax, (name, title) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        rows = run.table[run.table["analysis"] == name]
        METHODS[name].pictures[0](ax, rows, reference)
        ax.set_title(title)
    return figure


def _name(pair: Mapping[str, Any]) -> str:
    asked, _, _ = str(pair["pair"]).rpartition("_")
    mark = "\u2713" if pair["right"] else "\u2717"
    return f"{asked.replace('_', ' ')}, {pair['expected']}\n{mark} {pair['verdict']}"
