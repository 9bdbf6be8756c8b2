"""Does it come back when a few rows of weights are set to zero? (See :mod:`ftmech_hf.analysis.pruning`.)

Two controls: as many random rows, and the same search in the reference, from which nothing should come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ftmech_hf.activations import find_units
from ftmech_hf.analysis.pruning import Mask, PruningResult, gradient_importance, prune_sweep, pruned
from ftmech_hf.report.charts import CONTROL, RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.intervals import mean_over_draws
from ftmech_hf.studies.diagnosis.case import FINETUNED, NULL, Case
from ftmech_hf.studies.diagnosis.evidence import PruningEvidence
from ftmech_hf.studies.diagnosis.figures import DOTTED, KINDS, line, pick
from ftmech_hf.studies.diagnosis.method import Method, MethodResult, Summary, TableRow, row
from ftmech_hf.studies.diagnosis.methods.behaviour import answers_right, share_right
from ftmech_hf.training.objectives import answer_only_loss


class Sweep(NamedTuple):
    """Pruning growing numbers of rows of one model.

    Attributes:
        result: the curve, and the number of rows that was chosen.
        right: for every entry of the curve: kind of question -> whether each row is answered right, (B,).
    """

    result: PruningResult
    right: list[dict[str, NDArray[np.bool_]]]

    def at_best(self, method: str) -> list[NDArray[np.bool_]]:
        """Which of the capability's rows were right under the masks of one method at the chosen number of rows."""
        return [
            hits["capability"] for entry, hits in zip(self.result.curve, self.right, strict=True)
            if (entry["method"], entry["num_pruned"]) == (method, self.result.best_k)
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PruningMethodResult(MethodResult):
    """What is right after pruning.

    Attributes:
        finetuned, null: the sweeps of the fine-tuned model and of the reference.
        seed: of the interval over random masks.
    """

    finetuned: Sweep
    null: Sweep
    seed: int

    def rows(self) -> list[TableRow]:
        """Accuracy under every mask."""
        return [
            row("pruning", f"{entry['method']} rows", *share_right(hits[kind]), model=model, questions=kind,
                x=entry["num_pruned"], reference=entry["method"] == "random" or model == NULL)
            for model, sweep in ((FINETUNED, self.finetuned), (NULL, self.null))
            for entry, hits in zip(sweep.result.curve, sweep.right, strict=True)
            for kind in ("capability", "other") if kind in hits
        ]  # fmt: skip

    def evidence(self) -> PruningEvidence:
        """Accuracy at the chosen number of rows."""
        return PruningEvidence(
            pruned=share_right(self.finetuned.at_best("importance")[0]),
            pruned_random=mean_over_draws(self.finetuned.at_best("random"), seed=self.seed),
            pruned_null=share_right(self.null.at_best("importance")[0]),
        )

    def summary(self) -> dict[str, Any]:
        """How many rows, and which."""
        return {"best_k": self.finetuned.result.best_k, "pruned_rows": self.finetuned.result.pruned}


def measure_pruning(case: Case) -> PruningMethodResult:
    """Prune the fine-tuned model and the reference in the same way."""
    return PruningMethodResult(
        finetuned=_sweep(case, FINETUNED, list(case.both), case.config.random_masks),
        null=_sweep(case, NULL, ["capability"], 0),
        seed=case.seed,
    )


def _sweep(case: Case, name: str, kinds: Sequence[str], random_masks: int) -> Sweep:
    model, config = case.models[name], case.config
    units = find_units(model, "row")
    importance = gradient_importance(
        units, lambda rows: answer_only_loss(model, rows), case.capability.train[: config.patch_rows]
    )
    sets = {"validation": case.capability.validation[: config.patch_rows], **{kind: case.few(kind) for kind in kinds}}
    right: list[dict[str, NDArray[np.bool_]]] = []

    def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
        with pruned(units, mask):
            right.append({each: answers_right(model, sets[each]) for each in names})
        return {each: float(hits.mean()) for each, hits in right[-1].items()}

    result = prune_sweep(
        importance, evaluate, unit="row", test_sets=list(sets), control_sets=["capability"], sizes=config.prune_sizes,
        max_best_k=max(config.prune_sizes), chosen_on="validation", num_random=min(random_masks, 1),
        num_random_at_best=random_masks, seed=case.seed,
    )  # fmt: skip
    return Sweep(result, right)


def draw_pruning(ax: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Accuracy against the number of zeroed rows."""
    chosen = pick(rows, quantity="importance rows", model="fine-tuned")
    for kind, label, color in KINDS:
        if len(each := pick(chosen, questions=kind)):
            line(ax, each, "x", label, color)
    start = pick(chosen, questions="capability")
    drawn = pd.concat([start[start["x"] == 0], pick(rows, quantity="random rows")])
    mean = drawn.groupby("x", as_index=False)["value"].mean().assign(low=np.nan, high=np.nan)
    line(ax, mean, "x", "the capability, random rows", RANDOM, "--")
    null = pick(rows, quantity="importance rows", model="reference")
    line(ax, null, "x", f"the capability, {reference}", CONTROL, DOTTED)
    ax.set_xlabel("rows set to zero")
    accuracy_axis(ax)
    legend_below(ax)


def explain_pruning(summary: Summary) -> str:
    """What is set to zero, and beside what."""
    return (
        "Rows that the gradient says stand in the way of the right answer are set to zero. How many, "
        f"{summary['evidence']['best_k']}, was chosen on other questions than those shown. Dashed: as many random "
        "rows; dotted: the same search in the reference."
    )


PRUNING = Method(
    measure=measure_pruning, title="Zeroing a few rows of weights", pictures=(draw_pruning,), explain=explain_pruning
)
