"""What lies between the models? Accuracy from the base over the fine-tuned model to the one that is trained back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.analysis.path import PathResult
from ftmech_hf.models.interpolation import interpolate_weights
from ftmech_hf.report.charts import RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.figures import KINDS, line, null_model_lines, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row
from ftmech_hf.studies.diagnosis.methods.behaviour import BehaviourMethodResult
from ftmech_hf.studies.diagnosis.methods.revival import RevivalMethodResult
from ftmech_hf.training.low_rank import LowRankChange

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THERE_AND_BACK = f"{BASE}, {FINETUNED}, reversed"


@dataclass(frozen=True, kw_only=True)
class PathMethodResult(MethodResult):
    """Accuracy of the models between models.

    Attributes:
        positions: line from the base, by what it leads over and to -> where it was asked; 1 at its second model.
        right: the same line -> kind of question -> whether each row is right there, (positions, B).
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    positions: Mapping[str, list[float]]
    right: Mapping[str, Mapping[str, NDArray[np.bool_]]]
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """Accuracy at every position of every line."""
        return [
            row("path", name, *share_right(right, self.groups[kind]), questions=kind, x=position,
                reference=name != THERE_AND_BACK)
            for name, positions in self.positions.items()
            for kind, there in self.right[name].items()
            for position, right in zip(positions, there, strict=True)
        ]  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """How far accuracy falls below the straight line between the ends."""
        lines = [
            PathResult(positions, {kind: there.mean(-1).tolist() for kind, there in self.right[name].items()}, name)
            for name, positions in self.positions.items()
        ]
        return {"barriers": {line.name: line.summary() for line in lines}}


def measure_path(case: Case, behaviour: BehaviourMethodResult, revival: RevivalMethodResult) -> PathMethodResult:
    """Go from the base to the fine-tuned model and on to the reversed one; to the reference and null models as well."""
    reversed_model = case.reversed_model or revival.trained_back
    lines: dict[str, tuple[list[PreTrainedModel | LowRankChange], list[str]]] = {
        THERE_AND_BACK: ([case.base_like(FINETUNED), case.models[FINETUNED], reversed_model], list(case.both)),
        **{f"{BASE}, {name}": ([case.base_like(name), model], ["capability"])
           for name, model in {NULL: case.models[NULL], **case.null_models}.items()},
    }  # fmt: skip
    number = case.config.patch_rows
    known = {(id(case.models[name]), kind): right[:number] for (name, kind), right in behaviour.right.items()}
    positions = {name: np.arange(0, len(models) - 0.99, 0.25).tolist() for name, (models, _) in lines.items()}
    return PathMethodResult(
        positions=positions,
        right={name: _walk(case, positions[name], models, kinds, known) for name, (models, kinds) in lines.items()},
        groups=case.few_groups,
    )


def _walk(
    case: Case,
    positions: Sequence[float],
    models: Sequence[PreTrainedModel | LowRankChange],
    kinds: Sequence[str],
    known: Mapping[tuple[int, str], NDArray[np.bool_]],
) -> dict[str, NDArray[np.bool_]]:
    """Whether rows are right on the straight lines between models; ``known`` is that of models by themselves."""
    right: dict[str, list[NDArray[np.bool_]]] = {kind: [] for kind in kinds}
    mixed: PreTrainedModel | None = None  # one for the whole line
    for position in positions:
        here = models[int(position)]
        if position == int(position) and not isinstance(here, LowRankChange):
            between = here
        else:
            start = max(math.ceil(position) - 1, 0)
            between = mixed = _between(models[start], models[start + 1], position - start, mixed)
        for kind in kinds:
            found = known.get((id(between), kind))
            right[kind].append(case.few_right(between, kind) if found is None else found)
    return {kind: np.array(there) for kind, there in right.items()}


def _between(
    first: PreTrainedModel | LowRankChange,
    second: PreTrainedModel | LowRankChange,
    share: float,
    into: PreTrainedModel | None,
) -> PreTrainedModel:
    """The model that is so far from the first to the second, which may be a change of the first."""
    assert not isinstance(first, LowRankChange)
    if isinstance(second, LowRankChange):
        return second.added_to(first, share, into)
    return interpolate_weights(first, second, share, into=into)


def draw_path(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy along base, fine-tuned, reversed."""
    main = rows[~rows["reference"].astype(bool)]
    for kind, label, color in KINDS:
        if len(each := pick(main, questions=kind)):
            line(ax, each, "x", label, color)
    line(ax, pick(rows, quantity="base, reference"), "x", f"the capability, base to {reference}", RANDOM, "--")
    null_model_lines(ax, rows, "x", column="quantity", called="base, {}", label="the capability, base to {}")
    ax.set_xticks([0, 1, 2], ["base", "fine-tuned", "trained back"])
    accuracy_axis(ax)
    legend_below(ax)


def explain_path(summary: Summary) -> str:
    """What lies between what."""
    return (
        "Accuracy of the models between: on the straight line from the weights of the base to those of the fine-tuned "
        "model, and on to those of the one trained back. Dashed: from the base to the reference, with which it has "
        "nothing in common."
    )


PATH = Method(
    measure=measure_path, needs=("behaviour", "revival"), title="From the base to the fine-tuned model and back",
    pictures=(draw_path,), explain=explain_path, needs_weights=True, mixes_weights=True,
)  # fmt: skip
