"""Does scaling down what the base has no direction for bring it back? Intruder dimensions, beside edits at random.

See :mod:`ftmech_hf.analysis.intruders`. The scale is chosen on validation rows and reported on test rows. How many
there are stands beside the same change turned at random, which points where no fine-tuning meant to, and beside a
model that was taught nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import block_matrices
from ftmech_hf.analysis.intruders import IntrudersResult, find_intruders
from ftmech_hf.analysis.restoring import replaced
from ftmech_hf.models.directions import turn_at_random
from ftmech_hf.models.precision import widened
from ftmech_hf.report.charts import RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, SELF_DISTILLED, Case
from ftmech_hf.studies.diagnosis.figures import KINDS, line, marks, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the singular values of all intruders; 1 leaves the fine-tuned model as it is."""

DRAWS = 3
TURNED = "the change at random"


@dataclass(frozen=True, kw_only=True)
class IntrudersMethodResult(MethodResult):
    """What intruder dimensions there are and what they do.

    Attributes:
        found: of the fine-tuned model.
        numbers: model, and what stands beside it -> how many there are.
        of: how many main directions of matrices were looked at, as ``number`` of matrices.
        curve: scale -> mean score of the capability on validation rows.
        scale: the chosen one.
        right: kind of question -> whether each test row is right there.
        by_chance: test rows of the capability right under the same edits turned at random, (draws, rows).
        plain: test rows of the capability that the fine-tuned model answers right.
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    found: IntrudersResult
    numbers: Mapping[str, int]
    of: int
    curve: Mapping[float, float]
    scale: float
    right: Mapping[str, NDArray[np.bool_]]
    by_chance: NDArray[np.bool_]
    plain: NDArray[np.bool_]
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """How many there are, each with its cosine, and accuracy by scale."""
        table = [row("intruders", "number", number, model=model, reference=model != FINETUNED)
                 for model, number in self.numbers.items()]  # fmt: skip
        table += [row("intruders", "cosine", each["cosine"], model=FINETUNED, site=each["matrix"], x=each["number"])
                  for each in self.found.rows()]  # fmt: skip
        cells: dict[str, Any] = {"model": FINETUNED, "questions": "capability"}
        table += [row("intruders", "scaled, validation rows", value, x=scale, **cells)
                  for scale, value in self.curve.items()]  # fmt: skip
        table += [row("intruders", "scaled", *share_right(right, self.groups[kind]), model=FINETUNED, questions=kind,
                      x=self.scale) for kind, right in self.right.items()]  # fmt: skip
        by_chance = mean_over_draws(self.by_chance, self.groups["capability"])
        table.append(row("intruders", "scaled, at random", *by_chance, x=self.scale, reference=True, **cells))
        return table

    def summary(self) -> dict[str, Any]:
        """How many, and what scaling them does."""
        return {
            "intruders": {
                **self.found.summary(), "numbers": self.numbers, "matrices": self.of, "scale": self.scale,
                "alone": share_right(self.plain, self.groups["capability"]),
                "accuracy": {kind: share_right(right, self.groups[kind]) for kind, right in self.right.items()},
                "by_chance": mean_over_draws(self.by_chance, self.groups["capability"]),
            }
        }  # fmt: skip


def measure_intruders(case: Case) -> IntrudersMethodResult:
    """Find them in the matrices of the blocks that are looked into, and scale all of them at once.

    Every matrix of every model is decomposed, which of all blocks of a large one would take hours.
    """
    model = case.models[FINETUNED]
    weights, axes = block_matrices(model, case.layers)
    after = _upright(model, axes)
    before = {name: each.to(after[name].device) for name, each in _upright(case.models[BASE], axes).items()}
    turned = {name: _turned(each, after[name], _generator(case.seed, number))
              for number, (name, each) in enumerate(before.items())}  # fmt: skip
    asked = {FINETUNED: after, TURNED: turned}
    if SELF_DISTILLED in case.null_models:
        asked[SELF_DISTILLED] = _upright(case.null_models[SELF_DISTILLED], axes)
    intruders = dict(zip(asked, find_intruders(before, list(asked.values())), strict=True))
    found, numbers = intruders[FINETUNED], {name: each.number for name, each in intruders.items()}

    def edited(scale: float, seed: int | None = None) -> dict[str, Tensor]:
        return _edited(weights, axes, found, scale, seed)

    rows, curve = case.capability.validation[: case.config.patch_rows], dict[float, float]()
    for scale in SCALES:
        with replaced(model, edited(scale)):
            curve[scale] = case.capability.mean_score(model, rows)
    best = max(reversed(SCALES), key=lambda scale: curve[scale])  # of equal ones that which changes least
    with replaced(model, edited(best)):
        answers = {kind: case.few_right(model, kind) for kind in case.both}
    by_chance = []
    for draw in range(DRAWS):
        with replaced(model, edited(best, case.seed * DRAWS + draw)):
            by_chance.append(case.few_right(model, "capability"))
    return IntrudersMethodResult(
        found=found, numbers=numbers, of=len(before), curve=curve, scale=best, right=answers,
        by_chance=np.array(by_chance), plain=case.few_right(model, "capability"), groups=case.few_groups,
    )  # fmt: skip


def _upright(model: PreTrainedModel, axes: Mapping[str, int]) -> dict[str, Tensor]:
    """Matrices as (outputs, inputs), however a model keeps them; those of experts by themselves."""
    found, parameters = dict[str, Tensor](), dict(model.named_parameters())
    for name, axis in axes.items():
        kept = parameters[name].detach()
        turned = kept.mT if axis else kept
        found |= {name: turned} if kept.ndim == 2 else {f"{name}.{number}": each for number, each in enumerate(turned)}
    return found


def _turned(before: Tensor, after: Tensor, generator: torch.Generator) -> Tensor:
    """A matrix with its change turned at random, which is rounded once, as what was trained is."""
    change = widened(after) - widened(before)
    return (widened(before) + turn_at_random(change, generator)).to(before.dtype)


def _edited(
    weights: Mapping[str, Tensor], axes: Mapping[str, int], found: IntrudersResult, scale: float, seed: int | None
) -> dict[str, Tensor]:
    """The matrices that have intruders with these scaled, or the same edit turned at random."""
    edited = dict[str, Tensor]()
    for number, name in enumerate(name for name, each in found.matrices.items() if each):
        whole, expert = (name, None) if name in weights else (name.rpartition(".")[0], int(name.rpartition(".")[2]))
        after = edited.setdefault(whole, weights[whole].detach().clone())
        matrix = after if expert is None else after[expert]
        upright = matrix.T if axes[whole] else matrix
        exact = widened(upright)
        edit = found.scaled(name, exact, scale) - exact
        if seed is not None:
            edit = turn_at_random(edit, _generator(seed, number))
        upright.copy_(exact + edit)
    return edited


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 100_003 + number)


def draw_intruders(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy by scale on validation rows; marks: on test rows at the chosen scale, and edits at random there."""
    for kind, label, color in KINDS:
        if kind == "capability":
            line(ax, pick(rows, quantity="scaled, validation rows"), "x", label, color, band=False)
        named = label if kind == "other" else ""
        marks(ax, pick(rows, quantity="scaled", questions=kind), "x", color, label=named)
    marks(ax, pick(rows, quantity="scaled, at random"), "x", RANDOM, "x", "the capability, edits at random")
    ax.set_xlabel("scale of the intruder dimensions: 1 leaves them")
    accuracy_axis(ax)
    legend_below(ax)


def explain_intruders(summary: Summary) -> str:
    """How many there are beside chance, and what scaling them does."""
    found = summary["evidence"]["intruders"]
    numbers = found["numbers"]
    beside = "".join(f", {number} {'of ' if name == TURNED else 'in the base '}{name}"
                     for name, number in numbers.items() if name != FINETUNED)  # fmt: skip
    said = (
        "Main directions of a matrix's outputs that are like none of the base's are scaled down. There are "
        f"{numbers[FINETUNED]} in {found['matrices']} matrices{beside}."
    )
    if not numbers[FINETUNED]:
        return f"{said} So there is nothing to scale."
    accuracy, chance, alone = (
        each["value"] for each in (found["accuracy"]["capability"], found["by_chance"], found["alone"])
    )
    return (
        f"{said} The scale, {found['scale']:g}, was chosen on other questions; on these (squares) accuracy goes from "
        f"{alone:.0%} to {accuracy:.0%}, by edits of the same norm at random to {chance:.0%}."
    )


INTRUDERS = Method(
    measure=measure_intruders, title="Directions that the base does not have", pictures=(draw_intruders,),
    explain=explain_intruders, needs_weights=True, asked_by="edits",
)  # fmt: skip
