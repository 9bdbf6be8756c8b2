"""The pictures of a diagnosis. Each takes axes, the rows of one analysis, and the name of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, RANDOM, accuracy_axis, legend_below, step_axis
from ftmech_hf.studies.diagnosis.case import REHEARSED, TWIN

OTHER = "#2b8a3e"
BYSTANDERS = {REHEARSED: "#0d9488", TWIN: "#9333ea"}
"""Models that differ from the base without a meaning, which are drawn dotted."""
COLORS = {"base": BASE, "fine-tuned": FINETUNED, "reference": CONTROL, **BYSTANDERS}
DOTTED = (0, (1, 2))


def reference_name(reference: str) -> str:
    """What the reference is called in a legend."""
    return "random weights" if reference == RANDOM_INIT else "control"


def describe_reference(reference: str) -> str:
    """What the reference is, in a sentence."""
    if reference == RANDOM_INIT:
        return "the same architecture with random weights"
    return f"{reference}, a model that is said never to have had the capability"


def _line(
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
    rows = rows.sort_values(x)
    ax.plot(
        rows[x], rows["value"], linestyle=style, color=color, label=label, marker=marker, markersize=4, linewidth=1.8
    )
    if band and rows["low"].notna().any():
        ax.fill_between(
            rows[x], rows["low"].astype(float), rows["high"].astype(float), color=color, alpha=0.15, linewidth=0
        )


def _spread(ax: Axes, rows: pd.DataFrame, color: str) -> None:
    """A band from the lowest to the highest of what was measured several times at the same place."""
    if len(found := rows.groupby("x")["value"].agg(["min", "max", "count"])) and found["count"].max() > 1:
        ax.fill_between(found.index, found["min"], found["max"], color=color, alpha=0.15, linewidth=0)


def _layers(ax: Axes, name: str = "block") -> None:
    ax.set_xlabel(name)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _bystanders(
    ax: Axes, rows: pd.DataFrame, x: str, *, column: str = "model", called: str = "{}", label: str = "{}", **wanted: str
) -> None:
    """Lines of the models that differ from the base without a meaning, as ``column`` of the rows calls them."""
    for name, color in BYSTANDERS.items():
        if len(each := _pick(rows, **{column: called.format(name)}, **wanted)):
            _line(ax, each, x, label.format(name), color, DOTTED, marker=".", band=False)


def _pick(rows: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows


def _name(model: str, reference: str) -> str:
    return reference if model == "reference" else model


def behaviour(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Bars of accuracy: models by kind of question, with chance."""
    kinds = list(rows["questions"].unique())
    ax.set_axisbelow(True)
    accuracy = rows[rows["quantity"] == "accuracy"]
    models = list(accuracy["model"].unique())
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        each = _pick(accuracy, model=model)
        places = np.arange(len(kinds)) + (number - (len(models) - 1) / 2) * width
        low, high = each["value"] - each["low"], each["high"] - each["value"]
        ax.bar(places, each["value"], width * 0.9, color=COLORS[model], label=_name(model, reference))
        ax.errorbar(places, each["value"], yerr=[low.clip(lower=0), high.clip(lower=0)], fmt="none", ecolor="#111827",
                    elinewidth=1)  # fmt: skip
    for place, kind in enumerate(kinds):
        chance = float(_pick(rows, quantity="chance", questions=kind)["value"].iloc[0])
        ax.hlines(chance, place - 0.45, place + 0.45, color="#111827", linestyles="dotted", linewidth=1.2)
    ax.set_xticks(
        range(len(kinds)), ["the capability" if kind == "capability" else "what was taught" for kind in kinds]
    )
    accuracy_axis(ax)
    legend_below(ax)


def pruning(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the number of zeroed rows."""
    chosen = _pick(rows, quantity="importance rows", model="fine-tuned")
    for kind, label, color in (("capability", "the capability", FINETUNED), ("other", "what was taught", OTHER)):
        if len(each := _pick(chosen, questions=kind)):
            _line(ax, each, "x", label, color)
    start = _pick(chosen, questions="capability")
    drawn = pd.concat([start[start["x"] == 0], _pick(rows, quantity="random rows")])
    mean = drawn.groupby("x", as_index=False)["value"].mean().assign(low=np.nan, high=np.nan)
    _line(ax, mean, "x", "the capability, random rows", RANDOM, "--")
    null = _pick(rows, quantity="importance rows", model="reference")
    _line(ax, null, "x", f"the capability, {reference}", CONTROL, DOTTED)
    ax.set_xlabel("rows set to zero")
    accuracy_axis(ax)
    legend_below(ax)


def revival(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the step of reverse fine-tuning, one line per repetition, and the band that they span."""
    threshold = float(_pick(rows, quantity="threshold")["value"].iloc[0])
    for model in ("fine-tuned", "reference"):
        _spread(ax, _pick(rows, model=model), COLORS[model])
        for number, (_, run) in enumerate(_pick(rows, model=model).groupby("quantity", sort=False)):
            label = _name(model, reference) if number == 0 else ""
            _line(ax, run, "x", label, COLORS[model], "-" if model == "fine-tuned" else "--", band=False)
    ax.axhline(threshold, color="#111827", linewidth=1, linestyle=DOTTED)
    ax.annotate("back", (ax.get_xlim()[1], threshold), ha="right", va="bottom", fontsize=8)
    step_axis(ax, "step of training")
    accuracy_axis(ax)
    legend_below(ax)


def probing(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of probes by layer."""
    for model, style in (("base", "-"), ("fine-tuned", "--"), ("reference", "-")):
        _line(ax, _pick(rows, quantity="probe", model=model), "layer", _name(model, reference), COLORS[model], style)
    others = _pick(rows, quantity="probe")
    for number, (_, each) in enumerate(others[~others["model"].isin(COLORS)].groupby("model")):
        label = "" if number else "other random weights"
        _line(ax, each, "layer", label, CONTROL, DOTTED, marker="", band=False)
    _line(ax, _pick(rows, quantity="shuffled labels"), "layer", "shuffled labels", RANDOM, DOTTED)
    embeddings = _pick(rows, quantity="input embeddings")
    ax.axhline(float(embeddings["value"].iloc[0]), color=RANDOM, linewidth=1, label="input embeddings")
    _layers(ax, "stream after block")
    accuracy_axis(ax)
    legend_below(ax)


SITES = {"resid_post": ("whole stream", BASE), "attn_out": ("attention", FINETUNED), "mlp_act": ("MLP", OTHER)}


def _patching(ax: Axes, rows: pd.DataFrame, reference: str, way: str, null: str) -> None:
    found = _pick(rows, model=way, questions="capability")
    for site, (label, color) in SITES.items():
        _line(ax, _pick(found, site=site, quantity="same row"), "layer", label, color)
        other = _pick(found, site=site, quantity="other row")
        _line(ax, other, "layer", f"{label}, another question", color, "--", marker="", band=False)
    _line(ax, _pick(rows, model=null, site="resid_post"), "layer", f"whole stream, {reference}", CONTROL, DOTTED)
    _bystanders(ax, rows, "layer", called=null.replace("reference", "{}"))
    _layers(ax, "patched block")
    accuracy_axis(ax)
    legend_below(ax)


def patching_back(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of the fine-tuned model with the base's activations at one place, by layer and site."""
    _patching(ax, rows, reference, "base into fine-tuned", "base into reference")
    ax.set_title("The base's activations in the fine-tuned model")


def patching_forth(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of the base with the fine-tuned model's activations at one place, by layer and site."""
    _patching(ax, rows, reference, "fine-tuned into base", "reference into base")
    ax.set_title("The fine-tuned model's activations in the base")


def lens(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Share of rows in which an answer leads, by layer."""
    for model in ("base", "fine-tuned", "reference"):
        for answer, style in (("right answer", "-"), ("other answer", "--")):
            each = _pick(rows, model=model, quantity=answer)
            if len(each) and not (model == "reference" and answer == "other answer"):
                _line(
                    ax,
                    each,
                    "layer",
                    f"{_name(model, reference)}: {answer}",
                    COLORS[model],
                    style,
                    band=model != "reference",
                )
    _bystanders(ax, rows, "layer", quantity="right answer")
    majority = _pick(rows, quantity="majority")
    if len(majority):
        ax.axhline(float(majority["value"].iloc[0]), color="#111827", linewidth=1, linestyle=DOTTED)
    _layers(ax, "stream after block")
    accuracy_axis(ax, "share of questions")
    legend_below(ax)


def path(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy along base, fine-tuned, reversed."""
    main = rows[~rows["reference"].astype(bool)]
    for kind, label, color in (("capability", "the capability", FINETUNED), ("other", "what was taught", OTHER)):
        if len(each := _pick(main, questions=kind)):
            _line(ax, each, "x", label, color)
    _line(ax, _pick(rows, quantity="base, reference"), "x", f"the capability, base to {reference}", RANDOM, "--")
    _bystanders(ax, rows, "x", column="quantity", called="base, {}", label="the capability, base to {}")
    ax.set_xticks([0, 1, 2], ["base", "fine-tuned", "trained back"])
    accuracy_axis(ax)
    legend_below(ax)


def _from_zero(ax: Axes, title: str) -> None:
    ax.set_title(title)
    ax.set_ylim(bottom=0)
    legend_below(ax)


def weight_sizes(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Norm of the change over that of the matrix, by block and matrix."""
    sizes = _pick(rows[rows["layer"].notna()], quantity="relative norm")
    for site, each in _pick(sizes, model="fine-tuned").groupby("site", sort=False):
        ax.plot(each["layer"], each["value"], marker="o", linewidth=1, label=".".join(str(site).split(".")[-2:]))
    if len(nothing := _pick(sizes, model=REHEARSED)):
        mean = nothing.groupby("layer", as_index=False)["value"].mean()
        ax.plot(mean["layer"], mean["value"], color=RANDOM, linestyle="--", label=f"{REHEARSED}, mean")
    ax.set_ylabel("share of the matrix's norm")
    _layers(ax)
    _from_zero(ax, "Size of the change")


def weight_spectrum(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Singular values of the change and of a random one of its size: mean and range over matrices."""
    spectrum = _pick(rows, quantity="singular value")
    for by_chance, label, color, style in ((False, "the change", FINETUNED, "-"), (True, "random", RANDOM, "--")):
        chosen = spectrum[spectrum["reference"] == by_chance]
        curve = chosen.groupby("x")["value"].mean()
        _spread(ax, chosen.assign(x=chosen["x"] + 1), color)
        ax.plot(curve.index + 1, curve.to_numpy(), style, color=color, label=label, marker=".")
    ax.set_xlabel("largest first")
    _from_zero(ax, "Its singular values")


def weight_action(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """How strongly the change of the MLPs' last matrices acts on both kinds of prompts, beside a random one."""
    action = _pick(rows, quantity="action")
    kinds = (
        ("capability", "on the capability's prompts", FINETUNED),
        ("other", "on prompts about what was taught", OTHER),
    )
    for kind, label, color in kinds:
        for by_chance in (False, True):
            each = _pick(action[action["reference"] == by_chance], questions=kind)
            if len(each) and not (by_chance and kind == "other"):
                shown = ("a random change", RANDOM, "--") if by_chance else (label, color, "-")
                _line(ax, each, "layer", *shown)
    ax.set_ylabel("|dW a| over |W a|")
    _layers(ax)
    _from_zero(ax, "How it acts on prompts (last matrix of the MLPs)")


def similarity(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """CKA by layer, on the capability's questions and the others."""
    for kind, style in (("capability", "-"), ("other", "--")):
        for model in ("fine-tuned", "reference"):
            each = _pick(rows, quantity="CKA", model=model, questions=kind)
            if len(each):
                label = _name(model, reference) + (", other prompts" if kind == "other" else "")
                _line(ax, each, "layer", label, COLORS[model], style)
    _bystanders(ax, rows, "layer", quantity="CKA", questions="capability")
    _line(ax, _pick(rows, quantity="rows shuffled", questions="capability"), "layer", "rows shuffled", RANDOM, DOTTED)
    ax.set_ylim(-0.1, 1.05)
    ax.set_ylabel("CKA")
    _layers(ax, "stream after block")
    legend_below(ax)


def separation(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Tau by layer for every model."""
    for model in ("base", "fine-tuned", "reference"):
        _line(ax, _pick(rows, quantity="tau", model=model), "layer", _name(model, reference), COLORS[model])
    _bystanders(ax, rows, "layer", quantity="tau")
    _line(ax, _pick(rows, quantity="kinds by chance", model="base"), "layer", "kinds by chance", RANDOM, DOTTED)
    ax.set_ylabel("tau, in distances to the own centre")
    _layers(ax, "stream after block")
    legend_below(ax)


def sensitivity(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Median and quartiles of the gradient norm by model and kind of question."""
    norms = _pick(rows, quantity="gradient norm")
    kinds, models = list(norms["questions"].unique()), [model for model in COLORS if model in set(norms["model"])]
    for number, model in enumerate(models):
        each = _pick(norms, model=model)
        places = np.arange(len(kinds)) + (number - (len(models) - 1) / 2) * 0.16
        errors = [each["value"] - each["low"], each["high"] - each["value"]]
        ax.errorbar(places, each["value"], yerr=errors, fmt="o", color=COLORS[model], capsize=3,
                    label=_name(model, reference))  # fmt: skip
    ax.set_xticks(
        range(len(kinds)), ["the capability" if kind == "capability" else "what was taught" for kind in kinds]
    )
    ax.set_xlim(-0.6, len(kinds) - 0.4)
    ax.set_yscale("log")
    ax.set_ylabel("gradient norm")
    legend_below(ax)
