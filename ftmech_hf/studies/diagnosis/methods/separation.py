"""How far apart does each model hold two kinds of questions, or those with the two most frequent answers?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ftmech_hf.analysis.separation import LEAST_ROWS, SeparationResult, cluster_separation
from ftmech_hf.report.charts import RANDOM, legend_below
from ftmech_hf.statistics.clusters import groups_at
from ftmech_hf.studies.diagnosis.case import Case, is_reference
from ftmech_hf.studies.diagnosis.figures import COLORS, DOTTED, layer_axis, line, name_model, null_model_lines, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class SeparationMethodResult(MethodResult):
    """Separation in every model.

    Attributes:
        found: model -> separation after every chosen block.
        layers: those blocks.
    """

    found: Mapping[str, SeparationResult]
    layers: Sequence[int]

    def rows(self) -> list[TableRow]:
        """Mean tau, share of prompts on their own side, and tau of kinds by chance, by model and layer."""
        table = []
        for name, result in self.found.items():
            for layer, each in zip(self.layers, result.rows(), strict=True):
                place: dict[str, Any] = {"model": name, "site": each["site"], "layer": layer}
                reference = is_reference(name)
                table += [
                    row("separation", "tau", each["tau"], **place, reference=reference),
                    row("separation", "own side", each["own_side"], each["own_side_low"], each["own_side_high"],
                        **place, reference=reference),
                    row("separation", "kinds by chance", each["shuffled"], **place, reference=True),
                ]  # fmt: skip
        return table


def measure_separation(case: Case) -> SeparationMethodResult:
    """Measure every model's stream; of nothing where questions without a second kind share too few answers."""
    found = dict[str, SeparationResult]()
    if not case.other:
        counts = torch.bincount(case.capability.test.first_answers).sort(descending=True).values
        if len(counts) < 2 or int(counts[1]) < LEAST_ROWS:
            return SeparationMethodResult(found=found, layers=case.layers)
    asked = case.capability.test
    if case.other:
        groups = asked.groups, case.both["other"].test.groups
    else:
        one, two = (asked.first_answers == answer for answer in torch.bincount(asked.first_answers).topk(2).indices)
        groups = groups_at(asked.groups, one.numpy()), groups_at(asked.groups, two.numpy())
    for name in case.everyone:
        first = case.sites(name, "capability", "test")
        if case.other:
            second = case.sites(name, "other", "test")
        else:
            first, second = ({site: values[kind] for site, values in first.items()} for kind in (one, two))
        found[name] = cluster_separation(first, second, groups=groups, seed=case.seed)
    return SeparationMethodResult(found=found, layers=case.layers)


def draw_separation(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Tau by layer for every model."""
    for model in ("base", "fine-tuned", "reference"):
        line(ax, pick(rows, quantity="tau", model=model), "layer", name_model(model, reference), COLORS[model])
    null_model_lines(ax, rows, "layer", quantity="tau")
    line(ax, pick(rows, quantity="kinds by chance", model="base"), "layer", "kinds by chance", RANDOM, DOTTED)
    ax.set_ylabel("tau, in distances to the own centre")
    layer_axis(ax, "stream after block")
    legend_below(ax)


def explain_separation(summary: Summary) -> str:
    """What is measured, of what."""
    two_kinds = summary["facts"]["other"] is not None
    kinds = "about the capability and about what was taught" if two_kinds else "with the two most frequent answers"
    return (
        f"Prompts {kinds}: how much nearer a prompt is to the centre of its own kind than to the other's, in units of "
        "that distance. Dotted: kinds assigned by chance."
    )


SEPARATION = Method(
    measure=measure_separation, title="How far apart it holds two kinds of prompts", pictures=(draw_separation,),
    explain=explain_separation,
)  # fmt: skip
