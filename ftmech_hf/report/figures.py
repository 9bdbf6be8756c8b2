"""Pictures of a reproduction. A panel draws one line per model, the mean over seeds, and each seed as a thin line."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from safetensors.torch import load_file

from ftmech_hf.report.claims import REVIVAL_THRESHOLD
from ftmech_hf.runs import RunDir, is_finished, read_metrics
from ftmech_hf.studies import RANDOM_INIT

Runs = Mapping[int, Mapping[str, Path]]
"""seed -> name of a run in the reproduction -> its folder."""

BASE, FINETUNED, CONTROL, RANDOM = "#4b5563", "#c2410c", "#1971c2", "#808896"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#6b7280",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "ftmech_hf",  # the same picture gives the same bytes
}


def with_runs(runs: Runs, *names: str) -> Runs:
    """The seeds of which all runs of these names are finished."""
    return {seed: folders for seed, folders in runs.items() if all(is_finished(folders[name]) for name in names)}


def _lines(ax: Axes, curves: Sequence[pd.Series], label: str, color: str, style: str = "-") -> None:
    """One thin line per seed and their mean; every curve is indexed by x."""
    for curve in curves:
        ax.plot(curve.index, curve.to_numpy(), style, color=color, alpha=0.3, linewidth=0.8)
    mean = pd.concat(list(curves), axis=1).sort_index().mean(axis=1)  # seeds may have been looked at at other steps
    ax.plot(mean.index, mean.to_numpy(), style, color=color, label=label, linewidth=2)


def accuracy_axis(ax: Axes, name: str = "accuracy") -> None:
    """An axis from 0 to 100 %."""
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylabel(name)


def _training_curve(folder: Path, test_set: str) -> pd.Series:
    lines = read_metrics(folder)
    return pd.Series({line["step"]: line[f"accuracy/{test_set}"] for line in lines})


def legend_below(ax: Axes) -> None:
    """A legend under the axes, in two columns."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, columnspacing=1.2, handlelength=2.6)


def step_axis(ax: Axes, name: str) -> None:
    """A logarithmic axis of training steps that begins at 0."""
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(left=0)
    ax.set_xlabel(name)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def draw_finetuning(ax: Axes, runs: Runs, run: str, title: str) -> None:
    """Accuracy on both operands while fine-tuning on the second."""
    for test_set, label, color, style in (
        ("count_a", "counts a (pretraining)", BASE, "-"),
        ("count_b_cte1", "counts b, correlation holds", FINETUNED, "-"),
        ("count_b_cte0", "counts b, it does not", FINETUNED, "--"),
    ):
        _lines(ax, [_training_curve(folders[run], test_set) for folders in runs.values()], label, color, style)
    accuracy_axis(ax)
    step_axis(ax, "fine-tuning step")
    ax.set_title(title)
    legend_below(ax)


def draw_training(ax: Axes, run: Path, title: str) -> None:
    """Accuracy, or loss, of one run on all of its test sets while it trains."""
    lines = read_metrics(run)
    measured = [key for key in lines[-1] if key.startswith(("accuracy/", "loss/"))]
    for key in measured:
        curve = pd.Series({line["step"]: line[key] for line in lines})
        ax.plot(curve.index, curve.to_numpy(), marker=".", label=key.partition("/")[2])
    if measured and measured[0].startswith("loss/"):
        ax.set_ylabel("loss (nats per token)")
    else:
        accuracy_axis(ax)
    step_axis(ax, "step")
    ax.set_title(title)
    legend_below(ax)


def _pruning_curves(runs: Runs, run: str, method: str, test_set: str) -> list[pd.Series]:
    curves = []
    for folders in runs.values():
        table = pd.read_parquet(folders[run] / "table.parquet")
        chosen = table[(table["method"] == method) | (table["num_pruned"] == 0)]
        curves.append(chosen.groupby("num_pruned")[test_set].mean())
    return curves


def draw_pruning(ax: Axes, runs: Runs, run: str, control: str | None, title: str) -> None:
    """Accuracy against the number of pruned neurons, beside random masks and a model that never had the capability."""
    _lines(ax, _pruning_curves(runs, run, "importance", "count_a"), "counts a", BASE)
    _lines(ax, _pruning_curves(runs, run, "importance", "count_b_cte1"), "counts b, correlation holds", FINETUNED)
    _lines(ax, _pruning_curves(runs, run, "random", "count_a"), "counts a, random neurons", RANDOM, "--")
    if control is not None:
        _lines(ax, _pruning_curves(runs, control, "importance", "count_a"), "control counts a", CONTROL, "--")
    accuracy_axis(ax)
    ax.set_xscale("symlog", linthresh=10)
    ax.set_xlim(left=0)
    ax.set_xticks([0, 5, 10, 20, 50], ["0", "5", "10", "20", "50"])
    ax.set_xlabel("neurons set to zero")
    ax.set_title(title)
    legend_below(ax)


MODEL_STYLES = {
    "base": (BASE, "-"),
    "finetuned": (FINETUNED, "--"),
    "control": (CONTROL, "-"),
    RANDOM_INIT: (RANDOM, "-"),
}


def draw_probing(ax: Axes, runs: Runs, title: str) -> None:
    """Probe accuracy by layer, for the first label: the models, random weights, shuffled labels of the first model."""
    tables = [pd.read_parquet(folders["probe"] / "table.parquet") for folders in runs.values()]
    tables = [table[table["label"] == table["label"].iloc[0]] for table in tables]
    sites, models = list(tables[0]["site"].unique()), list(tables[0]["model"].unique())
    places = {site: number for number, site in enumerate(sites)}

    def curves(model: str, column: str) -> list[pd.Series]:
        return [
            table[table["model"] == model].set_index("site")[column].rename(index=places).astype(float)
            for table in tables
        ]

    for number, model in enumerate(models):
        color, style = MODEL_STYLES.get(model, (f"C{number}", "-"))
        _lines(ax, curves(model, "accuracy"), model, color, style)
    _lines(ax, curves(models[0], "shuffled"), f"{models[0]}, shuffled labels", RANDOM, ":")
    majority = float(np.mean([table["majority"].mean() for table in tables]))
    ax.axhline(majority, color="#374151", linewidth=0.8, linestyle=(0, (1, 3)))
    ax.annotate("most frequent answer", (len(sites) - 1, majority + 0.01), ha="right", va="bottom", fontsize=8)
    ax.set_xticks(range(len(sites)), sites, rotation=90 if len(sites) > 8 else 0, fontsize=7 if len(sites) > 8 else 9)
    accuracy_axis(ax)
    ax.set_xlabel("stream after")
    ax.set_title(title)
    legend_below(ax)


def draw_interpolation(ax: Axes, run: Path, title: str) -> None:
    """Accuracy on every test set along the line between two models."""
    table = pd.read_parquet(run / "table.parquet").set_index("alpha")
    for name, curve in table.items():
        ax.plot(curve.index, curve.to_numpy(), marker=".", label=str(name))
    accuracy_axis(ax)
    ax.set_xlabel("share of the way from the first model to the second")
    ax.set_title(title)
    legend_below(ax)


def draw_revival(ax: Axes, runs: Runs, title: str) -> None:
    """Accuracy on the first operand while fine-tuning back on it, beside the control's."""
    for run, label, color in (
        ("reversed-low", "fine-tuned model, reversed", FINETUNED),
        ("reversed-control", "control, never counted a", CONTROL),
    ):
        _lines(ax, [_training_curve(folders[run], "count_a") for folders in runs.values()], label, color)
    ax.axhline(REVIVAL_THRESHOLD, color="#374151", linewidth=0.8, linestyle=(0, (1, 3)))
    accuracy_axis(ax)
    step_axis(ax, "step of reverse fine-tuning")
    ax.set_title(title)
    legend_below(ax)


@mpl.rc_context(STYLE)
def attention_figure(run: Path) -> Figure:
    """What the answer position attends to, every head: in each model, and how the others differ from the first."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    tokens: list[str] = summary["tokens"]
    patterns = {name: np.array(pattern) for name, pattern in summary["pattern"].items()}
    layers, heads, length = next(iter(patterns.values())).shape
    maps = {name: pattern.reshape(-1, length) for name, pattern in patterns.items()}
    figure, axes = _map_panels(maps, highest=0.5, height=2.6)
    for ax in axes:
        ax.set_yticks(range(layers * heads), [f"{n // heads}.{n % heads}" for n in range(layers * heads)], fontsize=7)
        ax.set_ylabel("layer.head")
    axes[-1].set_xticks(range(length), tokens, fontsize=7, fontfamily="DejaVu Sans Mono")
    for label in axes[-1].get_xticklabels():
        if len(label.get_text()) > 2:
            label.set_rotation(90)
    return figure


@mpl.rc_context(STYLE)
def mlp_figure(run: Path) -> Figure:
    """Every MLP neuron's activation at every token of the example, layer under layer, as the paper's Fig. 46."""
    tensors = load_file(str(run / "maps.safetensors"))
    names = json.loads((run / "summary.json").read_text(encoding="utf-8"))["pattern"]
    maps = {name: tensors[f"{name}.mlp_act"] for name in names}
    layers, length, _ = next(iter(maps.values())).shape
    highest = max(float(each.abs().quantile(0.99)) for each in maps.values())
    figure, axes = _map_panels({name: each.flatten(0, 1).numpy() for name, each in maps.items()}, highest, 2.6)
    for ax in axes:
        ax.set_yticks([length * layer for layer in range(layers)], [f"layer {layer}" for layer in range(layers)])
        ax.set_ylabel("tokens")
    axes[-1].set_xlabel("MLP neuron")
    return figure


def _map_panels(maps: Mapping[str, np.ndarray], highest: float, height: float) -> tuple[Figure, list[Axes]]:
    """One map per model, and below them what the others have more or less than the first."""
    first = next(iter(maps))
    panels = [(name, values, "Greys" if name == first else "Oranges", 0.0) for name, values in maps.items()]
    for name, values in maps.items():
        if name != first:
            panels.append((f"{name} less {first}", values - maps[first], "PuOr_r", -highest))
    figure = Figure(figsize=(9, height * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, values, colors, lowest) in zip(axes, panels, strict=True):
        image = ax.imshow(values, aspect="auto", cmap=colors, vmin=lowest, vmax=highest, interpolation="nearest")
        ax.set_title(name)
        ax.grid(visible=False)
        figure.colorbar(image, ax=ax, fraction=0.02, pad=0.01)
    return figure, list(axes)


@mpl.rc_context(STYLE)
def panel(draw: Callable[[Axes], None]) -> Figure:
    """A figure with one panel, sized for a phone as well."""
    figure = Figure(figsize=(5.6, 4.1), layout="constrained")
    draw(figure.add_subplot())
    return figure


def _draw_or_say_why_not(ax: Axes, runs: Runs, title: str, names: Sequence[str], draw: Callable[[Runs], None]) -> None:
    if there := with_runs(runs, *names):
        return draw(there)
    ax.set_title(title)
    ax.text(0.5, 0.5, "no run is finished", ha="center", va="center")
    ax.set_axis_off()


@mpl.rc_context(STYLE)
def overview(runs: Runs) -> Figure:
    """The four effects in one picture, of the seeds whose runs are there."""
    figure = Figure(figsize=(11, 8.2), layout="constrained")
    one, two, three, four = figure.subplots(2, 2).flat
    tuned, pruned = "finetuned-low", ("prune-rows", "prune-control")
    title = "1  Fine-tuning seems to destroy counting a"
    _draw_or_say_why_not(one, runs, title, [tuned], lambda there: draw_finetuning(one, there, tuned, title))
    few = "2  A few neurons hide it"
    _draw_or_say_why_not(two, runs, few, pruned, lambda there: draw_pruning(two, there, *pruned, few))
    read = "3  It can be read from the stream throughout"
    _draw_or_say_why_not(three, runs, read, ["probe"], lambda there: draw_probing(three, there, read))
    back = "4  It comes back much faster than it is learned"
    names = ["reversed-low", "reversed-control"]
    _draw_or_say_why_not(four, runs, back, names, lambda there: draw_revival(four, there, back))
    return figure


@mpl.rc_context(STYLE)
def save_beside(figure: Figure, run: RunDir, suffix: str = "") -> Path:
    """Save a picture beside a finished run, whose folder stays as its manifest says."""
    path = run.path.with_name(f"{run.path.name}{suffix}.png")
    figure.savefig(path, dpi=110)
    return path


@mpl.rc_context(STYLE)
def to_data_uri(figure: Figure) -> str:
    """A figure as an ``<img src>``, so that a page needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
