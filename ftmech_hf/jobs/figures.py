"""Pictures of what jobs leave: a training, a pruning, probes, attention maps, the line between two models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.charts import (
    BASE,
    CONTROL,
    FINETUNED,
    RANDOM,
    Runs,
    accuracy_axis,
    floor_line,
    legend_below,
    new_figure,
    seed_lines,
    step_axis,
    styled,
)
from ftmech_hf.runs import FinishedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FLAT = 10
"""How many times the lowest loss the highest may be before an axis is logarithmic."""


def draw_training(ax: Axes, run: FinishedRun, title: str) -> None:
    """Accuracy, or loss, of one run on all of its test sets while it trains; dashed, what one answer would give."""
    lines = run.metrics
    measured = [key for key in lines[-1] if key.startswith(("accuracy/", "loss/"))]
    for key in measured:
        curve = pd.Series({line["step"]: line[key] for line in lines})
        (drawn,) = ax.plot(curve.index, curve.to_numpy(), marker=".", label=key.partition("/")[2])
        if key.startswith("accuracy/"):
            name = key.removeprefix("accuracy/")
            floor_line(ax, [run.floor(name)], name, drawn.get_color())
    if measured and measured[0].startswith("loss/"):
        ax.set_ylabel("loss (nats per token)")
        losses = [line[key] for line in lines for key in measured]
        if 0 < FLAT * min(losses) < max(losses):  # one curve would press the others flat
            ax.set_yscale("log")
    else:
        accuracy_axis(ax)
    step_axis(ax, "step")
    ax.set_title(title)
    legend_below(ax)


def _pruning_curves(runs: Runs, run: str, method: str, test_set: str) -> list[pd.Series]:
    curves = []
    for made in runs.values():
        table = made[run].table
        chosen = table[(table["method"] == method) | (table["num_pruned"] == 0)]
        curves.append(chosen.groupby("num_pruned")[test_set].mean())
    return curves


PRUNED_FOR = {
    "count_a": "counts a",
    "count_b_cte1": "counts b, correlation holds",
    "test": "gives the answer",
}
"""What a model does that gets a test set right."""


def draw_pruning(ax: Axes, runs: Runs, run: str, control: str | None, title: str) -> None:
    """Accuracy against the number of pruned neurons, beside random masks and a model that never had the capability."""
    columns = [*next(iter(runs.values()))[run].table.columns]
    reported, *others = columns[columns.index("validation") + 1 :]  # the first test set is what it was pruned for
    done = PRUNED_FOR.get(reported, reported)
    seed_lines(ax, _pruning_curves(runs, run, "importance", reported), done, BASE)
    for other in others:
        if other.endswith("_cte1"):
            seed_lines(ax, _pruning_curves(runs, run, "importance", other), PRUNED_FOR.get(other, other), FINETUNED)
    seed_lines(ax, _pruning_curves(runs, run, "random", reported), f"{done}, random neurons", RANDOM, "--")
    if control is not None:
        seed_lines(ax, _pruning_curves(runs, control, "importance", reported), f"control {done}", CONTROL, "--")
    floor_line(ax, [made[run].floor(reported) for made in runs.values()], done, BASE)
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
    tables = [made["probe"].table for made in runs.values()]
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
        seed_lines(ax, curves(model, "accuracy"), model, color, style)
    seed_lines(ax, curves(models[0], "shuffled"), f"{models[0]}, shuffled labels", RANDOM, ":")
    label = str(tables[0]["label"].iloc[0])
    floor_line(ax, [made["probe"].floor(label) for made in runs.values()], label)
    ax.set_xticks(range(len(sites)), sites, rotation=90 if len(sites) > 8 else 0, fontsize=7 if len(sites) > 8 else 9)
    accuracy_axis(ax)
    ax.set_xlabel("stream after")
    ax.set_title(title)
    legend_below(ax)


def draw_interpolation(ax: Axes, run: FinishedRun, title: str) -> None:
    """Accuracy on every test set along the line between two models."""
    table = run.table.set_index("alpha")
    for name, curve in table.items():
        (drawn,) = ax.plot(curve.index, curve.to_numpy(), marker=".", label=str(name))
        floor_line(ax, [run.floor(str(name))], str(name), drawn.get_color())
    accuracy_axis(ax)
    ax.set_xlabel("share of the way from the first model to the second")
    ax.set_title(title)
    legend_below(ax)


@styled
def attention_figure(run: FinishedRun) -> Figure:
    """What the answer position attends to, every head: in each model, and how the others differ from the first."""
    summary = run.summary
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


@styled
def mlp_figure(run: FinishedRun) -> Figure | None:
    """Every MLP neuron's activation at every token of the example, layer under layer, as the paper's Fig. 46.

    None where no neurons were read in all of the models.
    """
    tensors = load_file(str(run.path / "maps.safetensors"))
    names = [f"{name}.mlp_act" for name in run.summary["pattern"]]
    if not tensors.keys() >= {*names}:
        return None
    maps = {name.removesuffix(".mlp_act"): tensors[name] for name in names}
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
    figure = new_figure(9, height * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, values, colors, lowest) in zip(axes, panels, strict=True):
        image = ax.imshow(values, aspect="auto", cmap=colors, vmin=lowest, vmax=highest, interpolation="nearest")
        ax.set_title(name)
        ax.grid(visible=False)
        beyond = (bool(values.min() < lowest), bool(values.max() > highest))
        ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        figure.colorbar(image, ax=ax, fraction=0.02, pad=0.01, extend=ends[beyond])  # pointed where it is cut off
    return figure, list(axes)
