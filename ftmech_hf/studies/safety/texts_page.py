"""The page on a model that was given as a folder: claims with controls, clusters by layer, where the change is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ftmech_hf.report.charts import BASE, CONTROL, FINETUNED, legend_below, percent, styled, whole_numbers
from ftmech_hf.report.charts import new_figure as blank_figure
from ftmech_hf.report.claims import Claim, Measurement, judge
from ftmech_hf.report.page import make_section, render_page
from ftmech_hf.report.readings import Reading, difference, read_row
from ftmech_hf.runs import describe_versions, environment

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLORS = {"base": BASE, "finetuned": FINETUNED, "benign": CONTROL}

MEASURED = (
    Measurement("refuses", "Unsafe prompts refused, tuned less base", "points", bar=">= 50"),
    Measurement("keeps", "Safe prompts refused, tuned less base", "points", bar="<= 10"),
    Measurement("tau", "Prompts on their own side, tuned", "%", bar=">= 90",
                controls=("tau_shuffled", "tau_base")),
    Measurement("tau_shuffled", "The same, kinds by chance (control)", "%", bar="<= 65"),
    Measurement("tau_base", "The same, base (control)", "%", bar="<= 65"),
    Measurement("tau_benign", "The same, benign tuning", "%"),
    Measurement("outside", "Change outside what the base writes into, less chance", "points", bar=">= 5",
                controls=("outside_more",)),
    Measurement("outside_more", "The same, less benign tuning's (control)", "points", bar=">= 3"),
    Measurement("outside_benign", "The same, benign tuning", "points"),
    Measurement("action", "Action of the change, unsafe over safe", "x", bar=">= 1.5",
                controls=("action_random", "action_benign")),
    Measurement("action_random", "The same, a random change (control)", "x", bar="<= 1.2"),
    Measurement("action_benign", "The same, benign tuning's change (control)", "x", bar="<= 1.2"),
    Measurement("out", "Unsafe prompts refused less often without the direction", "points", bar=">= 50",
                controls=("out_random",)),
    Measurement("out_random", "The same, random directions (control)", "points", bar="<= 10"),
    Measurement("into", "Safe prompts refused more often with the direction", "points", bar=">= 50",
                controls=("into_random",)),
    Measurement("into_random", "The same, random directions (control)", "points", bar="<= 10"),
)  # fmt: skip
"""What is claimed of a model; a bar of the paper's claims where there is one."""


def _share(table: pd.DataFrame, **where: str) -> Reading:
    """The share of the one such line of the table, in per cent."""
    for column, value in where.items():
        table = table[table[column] == value]
    (row,) = table.to_dict("records")
    return read_row(row, 100.0)


def read_table(table: pd.DataFrame) -> dict[str, Reading]:
    """The readings of every claim that the table has lines for."""
    plain = {
        (model, kind): _share(table, quantity="refused", model=model, mixture=kind)
        for model in ("base", "finetuned") for kind in ("safe", "unsafe")
    }  # fmt: skip
    found = {
        "refuses": difference(plain["finetuned", "unsafe"], plain["base", "unsafe"]),
        "keeps": difference(plain["finetuned", "safe"], plain["base", "safe"]),
    }
    for model, end in (("finetuned", ""), ("base", "_base"), ("benign", "_benign")):
        found |= _inside(table[table["model"] == model], end)
    excess = {model: _excess(table[table["model"] == model]) for model in ("finetuned", "benign")}
    found |= {name: Reading(float(values.mean())) for name, values in (
        ("outside", excess["finetuned"]), ("outside_benign", excess["benign"]),
        ("outside_more", (excess["finetuned"] - excess["benign"]).dropna()),
    ) if len(values)}  # fmt: skip
    for what, name, kind in (("taken out", "out", "unsafe"), ("put in", "into", "safe")):
        for end, direction in (("", "refusal"), ("_random", "random")):
            pair = (plain["finetuned", kind], _share(table, quantity=what, direction=direction))
            found[name + end] = difference(*(pair if what == "taken out" else pair[::-1]))
    return found


def _inside(own: pd.DataFrame, end: str) -> dict[str, Reading]:
    """Clusters at the chosen layer, and the action of the change, of one model."""
    found = {}
    chosen = own[own["chosen"].eq(True)]
    for quantity, name in (("tau", "tau" + end), ("tau, shuffled kinds", "tau_shuffled" + end)):
        for row in chosen[chosen["quantity"] == quantity].to_dict("records"):
            found[name] = Reading(100 * row["own_side"], rows=int(row["rows"]))
    for quantity, name in (("action", "action" + end), ("action of a random change", "action_random" + end)):
        for row in own[own["quantity"] == quantity].to_dict("records"):
            ratio, low, high = (math.exp(row[column]) for column in ("value", "low", "high"))
            found[name] = Reading(ratio, interval=(low, high))
    return found


def _excess(own: pd.DataFrame) -> pd.Series:
    """How much more of the change of every changed matrix lies outside than of a direction by chance, in points."""
    lines = own[(own["quantity"] == "weights") & own["relative_norm"].gt(0)].set_index("matrix")
    return 100 * (lines["outside"] - lines["random_outside"])


@styled
def draw_clusters(table: pd.DataFrame) -> Figure:
    """Mean tau of both kinds of prompts by layer, of every model, and of kinds by chance in the tuned one."""
    figure = blank_figure(8, 4)
    ax = figure.subplots()
    for model in table["model"].unique():
        lines = table[(table["quantity"] == "tau") & (table["model"] == model)]
        ax.plot(lines["layer"], lines["value"], "o-", color=COLORS[model], markersize=4, label=model)
    lines = table[(table["quantity"] == "tau, shuffled kinds") & (table["model"] == "finetuned")]
    ax.plot(lines["layer"], lines["value"], "o:", color="#374151", markersize=2, label="finetuned, kinds by chance")
    ax.set_xlabel("layer")
    whole_numbers(ax.xaxis)
    ax.set_ylabel("tau, in distances from the own mean")
    legend_below(ax)
    return figure


@styled
def draw_change(table: pd.DataFrame) -> Figure:
    """Of every matrix that reads the stream in an MLP: how much of its change lies outside, beside chance."""
    figure = blank_figure(8, 4)
    ax = figure.subplots()
    chance: Any = ()
    for model in ("finetuned", "benign"):
        lines = table[(table["quantity"] == "weights") & (table["model"] == model) & table["relative_norm"].gt(0)]
        if len(lines):
            ax.plot(range(len(lines)), lines["outside"], "o", color=COLORS[model], markersize=4, label=model)
            chance = lines["random_outside"]
    ax.plot(range(len(chance)), chance, ":", color="#374151", label="a direction by chance")
    ax.set_xlabel("matrix, from the first layer to the last")
    whole_numbers(ax.xaxis)
    ax.set_ylabel("change outside")
    ax.set_ylim(0, 1.05)
    percent(ax.yaxis)
    legend_below(ax)
    return figure


def _asked(table: pd.DataFrame) -> list[Measurement]:
    """What is claimed, with the controls that were asked for: a benign tuning may not be given, or change nothing."""
    changed = table[(table["model"] == "benign") & (table["quantity"] == "weights") & table["relative_norm"].gt(0)]
    left_out = () if len(changed) else ("outside_more", "action_benign")
    return [each._replace(controls=tuple(name for name in each.controls if name not in left_out)) for each in MEASURED]


def write_page(rows: Sequence[dict[str, Any]], seed: int, identity: str) -> tuple[str, dict[str, float], list[Claim]]:
    """The page of a run's rows, its summary, which says what was refused, and its claims."""
    import pandas as pd

    table = pd.DataFrame(rows)
    claims = judge(_asked(table), {seed: read_table(table)})
    refused = table[table["quantity"] == "refused"]
    sections = [
        make_section("Where prompts lie", "Above 0, prompts lie nearer to the mean of their own kind.",
                     draw_clusters(table), "Tau by layer", ("tau*",)),
        make_section("Where the change is", "Of a change's main directions, what the base does not write into. The "
                     "matrices are of one model, and no sample of any: their mean has no interval and decides nothing.",
                     draw_change(table), "Change outside by matrix", ("outside*",)),
    ]  # fmt: skip
    env = environment()
    facts = {"command": env["command"], "hash": identity, "versions": describe_versions(env)}
    lines = refused.to_dict("records")
    page = render_page(__package__, "texts.html.j2", claims=claims, sections=sections, lines=lines, facts=facts)
    return page, {f"{row['mixture']}_refused_{row['model']}": row["value"] for row in lines}, claims
