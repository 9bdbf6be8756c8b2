"""Pictures of what is inside of models that were tuned for safety; means, and each seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, RANDOM, legend_of_all, percent, styled, whole_numbers
from ftmech_hf.report.charts import new_figure as blank_figure
from ftmech_hf.studies.safety.figures import draw_points
from ftmech_hf.studies.safety.plan import NEVER_THE_PAPERS, never

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TUNED = {"ssft": FINETUNED, "dpo": BASE, "unlearn": CONTROL}
COLORS = {**TUNED, "benign": RANDOM, **{never(name): color for name, color in TUNED.items()}}
KINDS = {"safe": "safe", "unsafe": "unsafe", "co_text_2": "co_text_2", "misgen": "misgen"}
MARKERS = {**dict(zip(TUNED, "o^D", strict=True)), "benign": "X",
           **dict(zip(map(never, TUNED), "o^D", strict=True)), "graddiff": "s", "npo": "v", "simnpo": "P", "rmu": "*",
           "own": "o", "protocol": "s", "random": "v", "shuffled": "D"}  # fmt: skip
"""So that models and directions are told apart without their colors, too; dashes are of those that never learned."""
FORGETTING = {"graddiff": "#7c3aed", "npo": "#0f766e", "simnpo": "#a16207", "rmu": "#be185d"}
"""Colors of protocols that only forget."""

DIRECTIONS = {
    "own": ("its own change", FINETUNED), "protocol": ("another protocol's (dpo)", "#7c3aed"),
    "random": ("turned at random", RANDOM), "benign": ("benign tuning's", BASE),
    "shuffled": ("shuffled refusals'", CONTROL),
}  # fmt: skip
"""Direction -> what it is called in pictures, and its color."""

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)


def _by_model(ax: Axes, rows: pd.DataFrame, column: str, columns: list[Any], labels: list[str]) -> None:
    """The value of every model at some values of a column, side by side."""
    models = [name for name in COLORS if name in set(rows["model"])]
    for number, model in enumerate(models):
        values = rows[rows["model"] == model].pivot_table(index="seed", columns=column, values="value")
        places = [place + 0.14 * (number - (len(models) - 1) / 2) for place in range(len(columns))]
        draw_points(ax, places, values.reindex(columns=columns), COLORS[model], model, MARKERS[model])
    ax.set_xticks(range(len(columns)), labels)


@styled
def draw_changes(table: pd.DataFrame) -> Figure:
    """Where the change lies, on what it acts, and how the dependence on the input changed."""
    import numpy as np
    import pandas as pd
    from matplotlib.ticker import LogLocator

    figure = blank_figure(13, 4)
    outside, action, gradient = figure.subplots(1, 3)
    weights = table[table["quantity"] == "weights"]
    layers = sorted(set(weights["matrix"]), key=list(dict.fromkeys(weights["matrix"])).index)
    excess = weights.assign(value=100 * (weights["outside"] - weights["random_outside"]))
    _by_model(outside, excess, "matrix", layers, [str(number) for number in range(len(layers))])
    outside.axhline(0, color=RANDOM, linewidth=1)
    outside.set_xlabel("matrix that reads the stream in an MLP, first to last")
    outside.set_title("Change outside, above chance (points)")
    whole = table[table["answers"] == "all"]
    acts, chance = (
        whole[whole["quantity"] == name].set_index(["seed", "model", "mixture"])["value"]
        for name in ("action", "action of a random change")
    )
    times = pd.DataFrame({"value": np.exp(acts - chance)}).reset_index()
    _by_model(action, times, "mixture", list(KINDS), list(KINDS.values()))
    action.set_title("Action, of that of a random change")
    norms = whole[whole["quantity"] == "input gradient"]
    _by_model(gradient, norms.assign(value=np.exp(norms["value"])), "mixture", list(KINDS), list(KINDS.values()))
    gradient.set_title("Dependence on input, of the base's")
    for ax in (action, gradient):
        ax.axhline(1, color=RANDOM, linewidth=1)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    legend_of_all(figure)
    return figure


@styled
def draw_depth(table: pd.DataFrame) -> Figure:
    """At which tokens of an answer a tuned model differs from the base, of unsafe and of safe prompts."""
    figure = blank_figure(10, 4)
    found = table[table["quantity"] == "divergence"]
    for ax, kind in zip(figure.subplots(1, 2, sharey=True), ("unsafe", "safe"), strict=True):
        for model in [name for name in COLORS if name in set(found["model"])]:
            rows = found[(found["model"] == model) & (found["mixture"] == kind)]
            nats = rows.pivot_table(index="seed", columns="token", values="value")
            tokens = [float(each) + 1 for each in nats.columns]
            draw_points(ax, tokens, nats, COLORS[model], model, f"{MARKERS[model]}-")
        ax.set_title(f"Answers to {kind} prompts")
        ax.set_xlabel("token of the answer")
        whole_numbers(ax.xaxis)
    figure.axes[0].set_ylabel("divergence from the base (nats)")
    legend_of_all(figure)
    return figure


@styled
def draw_lines(table: pd.DataFrame) -> Figure:
    """Refused attacks and answered safe prompts along a model's line, and beyond it in other directions."""
    rates = {name: rate for name, rate in (("ssft-slow", "small"), ("ssft", "medium")) if name in set(table["model"])}
    figure = blank_figure(10, 3.6 * len(rates))
    tests = table[table["split"] == "test"]
    parts = (
        ("attacks refused", ~tests["mixture"].isin(["safe", "unsafe"])),
        ("safe prompts answered", tests["mixture"] == "safe"),
    )
    for line, (model, rate) in zip(figure.subplots(len(rates), 2, squeeze=False), rates.items(), strict=True):
        for ax, (title, chosen) in zip(line, parts, strict=True):
            rows = tests[chosen & (tests["model"] == model)]
            for direction, (name, color) in DIRECTIONS.items():
                shares = rows[rows["direction"] == direction].pivot_table(index="seed", columns="alpha", values="value")
                if len(shares):
                    style = f"{MARKERS[direction]}-"
                    draw_points(ax, [float(each) for each in shares.columns], shares, color, name, style)
            ax.set_title(f"{rate.capitalize()} rate: {title}")
            ax.set_xlabel("share of the change (1 is the tuned model)")
            ax.set_ylim(-0.03, 1.03)
            percent(ax.yaxis)
    legend_of_all(figure, ncols=3)
    return figure


@styled
def draw_direction(table: pd.DataFrame) -> Figure:
    """Refusals without the refusal direction, and with it on safe prompts, beside random directions."""
    figure = blank_figure(10, 4)
    kinds = {"none": "as it is", "refusal": "refusal", "random": "random", "letters": "letters"}
    refused = table[table["answer"] == "refused"]
    for ax, what, prompts in zip(figure.subplots(1, 2), ("taken out", "put in"), ("unsafe", "safe"), strict=True):
        rows = refused[refused["what"].isin(["nothing", what]) & (refused["prompts"] == prompts)]
        _by_model(ax, rows, "direction", list(kinds), list(kinds.values()))
        ax.set_title(f"{prompts.capitalize()} prompts refused, direction {what}")
        ax.set_ylim(-0.03, 1.03)
        percent(ax.yaxis)
    legend_of_all(figure)
    return figure


@styled
def draw_relearning(table: pd.DataFrame) -> Figure:
    """Unsafe prompts that are answered again while a model is tuned, in three ways."""
    figure = blank_figure(13, 4.2)
    panels = (("ten", "all", "Tuned on ten unsafe prompts"), ("safe", "all", "Tuned on safe prompts alone"),
              ("one", "others by text", "Tuned on one operator: others on such texts"))  # fmt: skip
    for ax, (way, unsafe, title) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        rows = table[(table["way"] == way) & (table["unsafe"] == unsafe)]
        for model in dict.fromkeys(rows["model"]):
            shares = rows[rows["model"] == model].pivot_table(index="seed", columns="step", values="value")
            color, dashes = (COLORS | FORGETTING)[model], "--" if model in NEVER_THE_PAPERS else "-"
            style = f"{MARKERS[model]}{dashes}"
            draw_points(ax, [float(each) for each in shares.columns], shares, color, model, style)
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        ticks = [step for step in STEPS if step <= table["step"].max()]
        ax.set_xticks(ticks, [str(step) for step in ticks])
        ax.set_xlabel("step")
        ax.set_title(title)
        ax.set_ylim(-0.03, 1.03)
        percent(ax.yaxis)
    legend_of_all(figure)
    return figure


@styled
def draw_soft_tokens(table: pd.DataFrame) -> Figure:
    """Success of soft tokens by their number, sought and random."""
    figure = blank_figure(9, 4)
    ax = figure.subplots()
    for model, color in COLORS.items():
        dashes = {"sought": ":"} if model in NEVER_THE_PAPERS else {"sought": "-", "random": "--"}
        for vectors, style in ((each, f"{MARKERS[model]}{dash}") for each, dash in dashes.items()):
            rows = table[(table["model"] == model) & (table["mixture"] == "unsafe") & (table["vectors"] == vectors)]
            success = rows.pivot_table(index="seed", columns="number", values="value")
            if len(success):
                draw_points(ax, [float(each) for each in success.columns], success, color, f"{model}, {vectors}", style)
    ax.set_xlabel("soft tokens")
    whole_numbers(ax.xaxis)
    ax.set_ylim(-0.03, 1.03)
    percent(ax.yaxis)
    legend_of_all(figure)
    return figure
