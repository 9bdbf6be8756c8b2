"""Does one direction of the stream hide it? Differences in means, taken out of the fine-tuned model, put into the base.

See :mod:`ftmech_hf.analysis.direction`. Directions are means of training rows, where the answer is predicted; the layer
is chosen on validation rows, for each edit by its own effect; and what is reported is of test rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import Writes, difference_in_means, put_in, random_direction, taken_out
from ftmech_hf.report.charts import RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, Case
from ftmech_hf.studies.diagnosis.figures import layer_axis, line, marks, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOVED, APART = "what fine-tuning moved", "what sets the questions apart"
"""Of the same questions, the fine-tuned model's mean less the base's; and of the fine-tuned model, the mean of the
capability's questions less that of the questions about what was taught."""

OUT, IN = "taken out", "put in"
"""Of the fine-tuned model, and into the base."""

DRAWS = 3
"""Directions by chance, of the same length."""

COLORS = {MOVED: "#c2410c", APART: "#2b8a3e"}


class DirectionEdit(NamedTuple):
    """What one edit with one direction does.

    Attributes:
        curve: layer that the direction is from -> mean score of the capability on validation rows.
        layer: the chosen one.
        right: kind of question -> whether each test row is right.
        by_chance: test rows of the capability right with directions by chance, (draws, rows).
    """

    curve: Mapping[int, float]
    layer: int
    right: Mapping[str, NDArray[np.bool_]]
    by_chance: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class DirectionMethodResult(MethodResult):
    """What directions do.

    Attributes:
        edits: (direction, edit) -> what it does; directions of length 0 are left out.
        ends: test rows of the capability that base and fine-tuned model answer right.
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    edits: Mapping[tuple[str, str], DirectionEdit]
    ends: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """Accuracy under every edit, and by layer on validation rows."""
        table: list[TableRow] = []
        for (direction, edit), found in self.edits.items():
            where: dict[str, Any] = {"model": FINETUNED if edit == OUT else BASE, "site": direction}
            table += [row("direction", f"{edit}, validation rows", value, questions="capability", layer=layer, **where)
                      for layer, value in found.curve.items()]  # fmt: skip
            table += [row("direction", edit, *share_right(right, self.groups[kind]), questions=kind, layer=found.layer,
                          **where) for kind, right in found.right.items()]  # fmt: skip
            table.append(row("direction", f"{edit}, at random", *self._chance(found), reference=True,
                             questions="capability", layer=found.layer, **where))  # fmt: skip
        return table

    def summary(self) -> dict[str, Any]:
        """What each edit does, and what directions by chance do in its place."""
        base, tuned = (share_right(right, self.groups["capability"]) for right in self.ends)
        return {
            "directions": {
                "base": base,
                "finetuned": tuned,
                "edits": [
                    {"direction": direction, "edit": edit, "layer": found.layer,
                     "accuracy": {kind: share_right(right, self.groups[kind]) for kind, right in found.right.items()},
                     "by_chance": self._chance(found)}
                    for (direction, edit), found in self.edits.items()
                ],
            }
        }  # fmt: skip

    def _chance(self, found: DirectionEdit) -> Share:
        return mean_over_draws(found.by_chance, self.groups["capability"])


def measure_direction(case: Case) -> DirectionMethodResult:
    """Find the directions, and edit both models with each."""
    ends = tuple(_right(case, name, "capability", {}) for name in (BASE, FINETUNED))
    edits = {
        (name, edit): _edited(case, directions, edit)
        for name, directions in find_directions(case).items() for edit in (OUT, IN)
        if directions
    }  # fmt: skip
    return DirectionMethodResult(edits=edits, ends=(ends[0], ends[1]), groups=case.few_groups)


def find_directions(case: Case) -> dict[str, dict[int, Tensor]]:
    """Direction -> layer -> it, (D,); of layers where it has a length."""
    tuned = case.stream(FINETUNED, "capability", "train")
    others = {MOVED: case.stream(BASE, "capability", "train")}
    if case.other is not None:
        others[APART] = case.stream(FINETUNED, "other", "train")
    found = {
        name: {layer: difference_in_means(there, here[layer]) for layer, there in tuned.items()}
        for name, here in others.items()
    }
    return {name: {layer: each for layer, each in by_layer.items() if each.any()} for name, by_layer in found.items()}


def _edited(case: Case, directions: Mapping[int, Tensor], edit: str) -> DirectionEdit:
    """Choose the layer by what the edit is for, to bring the capability back or to hide it, and report test rows."""
    name = FINETUNED if edit == OUT else BASE

    def writes(direction: Tensor, layer: int) -> Writes:
        model = case.models[name]
        return taken_out(model, direction) if edit == OUT else put_in(model, direction, layer)

    rows, curve = case.capability.validation[: case.config.patch_rows], dict[int, float]()
    for layer, direction in directions.items():
        with intervene(case.models[name], writes(direction, layer)):
            curve[layer] = case.capability.mean_score(case.models[name], rows)
    layer = (max if edit == OUT else min)(curve, key=lambda each: curve[each])
    generator = torch.Generator().manual_seed(case.seed)
    drawn = [random_direction(directions[layer], generator) for _ in range(DRAWS)]
    by_chance = [_right(case, name, "capability", writes(each, layer)) for each in drawn]
    right = {kind: _right(case, name, kind, writes(directions[layer], layer)) for kind in case.both}
    return DirectionEdit(curve, layer, right, np.array(by_chance))


def _right(case: Case, name: str, kind: str, writes: Writes) -> NDArray[np.bool_]:
    with intervene(case.models[name], writes):
        return case.few_right(case.models[name], kind)


def draw_taken_out(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of the fine-tuned model without a direction, by the layer that it is from."""
    _draw(ax, rows, OUT)
    ax.set_title("Taken out of the fine-tuned model")


def draw_put_in(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy of the base with a direction, by the layer that it is from."""
    _draw(ax, rows, IN)
    ax.set_title("Put into the base")


def _draw(ax: Axes, rows: pd.DataFrame, edit: str) -> None:
    """Lines: validation rows; marks: test rows where the layer was chosen, and the same by chance."""
    for direction, color in COLORS.items():
        if len(each := pick(rows, quantity=f"{edit}, validation rows", site=direction)):
            line(ax, each, "layer", direction, color, band=False)
            marks(ax, pick(rows, quantity=edit, site=direction, questions="capability"), "layer", color)
            chance = pick(rows, quantity=f"{edit}, at random", site=direction)
            marks(ax, chance, "layer", RANDOM, "x", "by chance" if direction == MOVED else "")
    layer_axis(ax, "stream after block")
    accuracy_axis(ax)
    legend_below(ax)


def explain_direction(summary: Summary) -> str:
    """What was edited, and what came of it."""
    found = summary["evidence"]["directions"]
    said = (
        "One direction of the stream is taken out of the fine-tuned model everywhere, or added to the base behind its "
        "layer, which was chosen on other questions. Squares: these questions; crosses: directions by chance, of the "
        "same length."
    )
    return " ".join([said, *(_say_edit(each, found) for each in found["edits"])])


def _say_edit(each: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    name, model = ("fine-tuned model", "finetuned") if each["edit"] == OUT else ("base", "base")
    accuracy, chance = each["accuracy"]["capability"]["value"], each["by_chance"]["value"]
    what = each["direction"][0].upper() + each["direction"][1:]
    return (
        f"{what}, {each['edit']}: the {name} goes from {found[model]['value']:.0%} to {accuracy:.0%}, by chance to "
        f"{chance:.0%} (block {each['layer']})."
    )


DIRECTION = Method(
    measure=measure_direction, title="One direction as an intervention", pictures=(draw_taken_out, draw_put_in),
    explain=explain_direction, asked_by="edits",
)  # fmt: skip
