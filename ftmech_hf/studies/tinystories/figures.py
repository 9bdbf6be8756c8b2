"""Pictures of the study of stories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.charts import BASE as BASE_COLOR
from ftmech_hf.report.charts import CONTROL as CONTROL_COLOR
from ftmech_hf.report.charts import FINETUNED, RANDOM, accuracy_axis, new_figure, step_axis, styled
from ftmech_hf.studies.tinystories.config import PROTOCOLS
from ftmech_hf.studies.tinystories.plan import BASE, CONTROL
from ftmech_hf.studies.tinystories.prompts import ASKED, NOT_ASKED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = dict(zip(PROTOCOLS, (FINETUNED, "#9c6b30", "#862e9c"), strict=True))


def _split(label: str) -> tuple[str, str]:
    """``F (large)`` -> (F, large)."""
    protocol, _, rate = label.partition(" (")
    return protocol, rate.removesuffix(")")


def _rates(labels: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(rate for rate in (_split(label)[1] for label in labels) if rate))


def rates_of(table: pd.DataFrame) -> list[str]:
    """The rates of deletion that a table of models has; without one there is nothing to draw."""
    return _rates(list(table["model"].unique())) if len(table) else []


def _color(label: str) -> str:
    return {BASE: BASE_COLOR, CONTROL: CONTROL_COLOR, RANDOM_INIT: RANDOM}.get(label) or COLORS[_split(label)[0]]


def _panels(number: int, *, columns: int = 3, width: float = 4.0, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    columns = min(columns, number)
    rows = -(-number // columns)
    figure = new_figure(width * columns, height * rows)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[number:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:number])


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend of all panels, below them."""
    found = {text: line for ax in axes for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=min(5, len(found)))


@styled
def scores_figure(
    points: pd.DataFrame,
    measure: str,
    over_seeds: Callable[[pd.DataFrame, Sequence[str]], pd.DataFrame],
    named: str,
) -> Figure:
    """Shares against the step of fine-tuning back: a panel per rate of deletion, the control in each."""
    means = over_seeds(points[points["measure"] == measure], ["model", "step", "kind"])
    labels = list(means["model"].unique())
    rates = _rates(labels)
    figure, axes = _panels(len(rates))
    for ax, rate in zip(axes, rates, strict=True):
        for label in [each for each in labels if _split(each)[1] == rate or each == CONTROL]:
            for kind, style in ((ASKED, "-"), (NOT_ASKED, "--")):
                curve = means[(means["model"] == label) & (means["kind"] == kind)].sort_values("step")
                name = _split(label)[0] if kind == ASKED else f"{_split(label)[0]}, {kind}"
                ax.plot(
                    curve["step"], curve["value"], style, marker=".", color=_color(label), label=name, linewidth=1.5
                )
                if kind == ASKED:
                    ax.fill_between(
                        curve["step"], curve["low"], curve["high"], color=_color(label), alpha=0.12, linewidth=0
                    )
        base = means[(means["model"] == BASE) & (means["kind"] == ASKED)]
        if len(base):
            ax.axhline(float(base["value"].iloc[0]), color=BASE_COLOR, linewidth=1, linestyle=(0, (1, 2)), label="base")
        accuracy_axis(ax, f"stories with a {named}" if measure == "stories" else f"{named} is likelier")
        step_axis(ax, "step of fine-tuning back")
        ax.set_title(f"deleted at the {rate} rate" if rate != "lora" else "deleted and revived by LoRA")
    _legend(figure, axes)
    return figure


@styled
def losses_figure(losses: pd.DataFrame, feature: str) -> Figure:
    """Loss on stories with the feature: while it is deleted, and on the way back; a line per model, mean over seeds."""
    chosen = losses[losses["set"] == feature]
    rates = _rates(list(chosen["model"].unique()))
    stages = {"delete": "deletion", "reverse": "fine-tuning back"}
    figure, axes = _panels(len(rates) * len(stages), columns=len(rates))
    trained = chosen[(chosen["stage"] == "pretrain") & (chosen["model"] == BASE)].sort_values("step")
    base = trained.groupby("seed")["loss"].last()
    for number, stage in enumerate(stages):
        for ax, rate in zip(axes[number * len(rates) :], rates, strict=False):
            part = chosen[(chosen["stage"] == stage)]
            for label, group in part.groupby("model", sort=False):
                if _split(str(label))[1] == rate or label == CONTROL:
                    curve = group.groupby("step")["loss"].mean()
                    ax.plot(
                        curve.index, curve.to_numpy(), marker=".", color=_color(str(label)), label=_split(str(label))[0]
                    )
            if len(base):
                ax.axhline(float(base.mean()), color=BASE_COLOR, linewidth=1, linestyle="--", label="base")
            step_axis(ax, f"step of {stages[stage]}")
            ax.set_ylabel("nats per token")
            ax.set_title(f"{stages[stage]}, {rate}")
    _legend(figure, axes)
    return figure


@styled
def probes_figure(probes: pd.DataFrame) -> Figure:
    """Probe accuracy by layer, a panel per feature: models before they are fine-tuned back; mean over seeds."""
    seen = probes[(probes["words"] == "seen") & (probes["state"] == "")]
    features, sites = list(seen["label"].unique()), list(seen["site"].unique())
    figure, axes = _panels(len(features), width=4.2)
    for ax, feature in zip(axes, features, strict=True):
        part = seen[seen["label"] == feature]
        for label, group in part.groupby("model", sort=False):
            if _split(str(label))[1] == "lora":
                continue
            style = "--" if _split(str(label))[1] == "small" else "-"
            curve = group.groupby("site", sort=False)["accuracy"].mean().reindex(sites)
            ax.plot(range(len(sites)), curve, style, color=_color(str(label)), label=str(label), linewidth=1.4)
        shuffled = part[part["model"] == BASE].groupby("site", sort=False)["shuffled"].mean().reindex(sites)
        ax.plot(range(len(sites)), shuffled, ":", color=RANDOM, label="base, shuffled labels")
        ax.axhline(float(part["majority"].mean()), color="#374151", linewidth=0.8, linestyle=(0, (1, 3)))
        ax.set_xticks(range(len(sites)), [site.replace("block ", "") for site in sites], fontsize=8)
        ax.set_xlabel("stream after")
        accuracy_axis(ax)
        ax.set_ylim(0.45, 1.02)
        ax.set_title(feature)
    _legend(figure, axes)
    return figure


@styled
def pruning_figure(pruning: pd.DataFrame) -> Figure:
    """Choices of the twist against the number of rows set to zero: a panel per deleted model, mean over seeds."""
    labels = list(pruning["model"].unique())
    figure, axes = _panels(len(labels), width=3.6, height=3.0)
    for ax, label in zip(axes, labels, strict=True):
        part = pruning[pruning["model"] == label]
        for method, color, text in (("importance", _color(label), "by importance"), ("random", RANDOM, "at random")):
            chosen = part[(part["method"] == method) | (part["num_pruned"] == 0)]
            for kind, style in ((ASKED, "-"), (NOT_ASKED, "--")):
                curve = chosen.groupby("num_pruned")[kind].mean()
                ax.plot(curve.index, curve.to_numpy(), style, color=color, label=f"{text}, {kind}", linewidth=1.4)
        accuracy_axis(ax, "twist is likelier")
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlim(left=0)
        ax.set_xticks([0, 5, 10, 20, 50], ["0", "5", "10", "20", "50"])
        ax.set_xlabel("rows set to zero")
        ax.set_title(label)
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2)
    return figure
