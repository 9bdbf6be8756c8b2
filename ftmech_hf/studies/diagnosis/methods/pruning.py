"""Does it come back when a few rows of weights are set to zero? (See :mod:`ftmech_hf.analysis.pruning`.)

Two controls: as many random rows, and the same search in the reference, from which nothing should come back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ftmech_hf.activations import find_units
from ftmech_hf.jobs.pruning_sweep import SweepResult, check_sizes, prune_for
from ftmech_hf.report.charts import CONTROL, RANDOM, accuracy_axis, legend_below
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.studies.diagnosis.case import FINETUNED, NULL, Case, backward_rows
from ftmech_hf.studies.diagnosis.evidence import PruningEvidence
from ftmech_hf.studies.diagnosis.figures import DOTTED, KINDS, line, pick
from ftmech_hf.studies.diagnosis.method import Apart, Method, MethodResult, Summary, TableRow, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class PruningMethodResult(MethodResult):
    """What is right after pruning.

    Attributes:
        finetuned, null: the sweeps of the fine-tuned model and of the reference.
        groups: kind of question -> what each row is about; None where each is by itself.
    """

    finetuned: SweepResult
    null: SweepResult
    groups: Mapping[str, Groups]

    def rows(self) -> list[TableRow]:
        """Accuracy under every mask."""
        return [
            row("pruning", f"{entry['method']} rows", *share_right(right[kind].numpy(), self.groups[kind]),
                model=model, questions=kind, x=entry["num_pruned"],
                reference=entry["method"] == "random" or model == NULL)
            for model, sweep in ((FINETUNED, self.finetuned), (NULL, self.null))
            for entry, right in zip(sweep.pruning.curve, sweep.scores, strict=True)
            for kind in ("capability", "other") if kind in right
        ]  # fmt: skip

    def evidence(self) -> PruningEvidence:
        """Accuracy at the chosen number of rows."""
        best, best_null = (each.at_best("importance", "capability")[0] for each in (self.finetuned, self.null))
        random = [each.numpy() for each in self.finetuned.at_best("random", "capability")]
        groups = self.groups["capability"]
        return PruningEvidence(
            pruned=share_right(best.numpy(), groups),
            pruned_random=mean_over_draws(random, groups),
            pruned_null=share_right(best_null.numpy(), groups),
        )

    def summary(self) -> dict[str, Any]:
        """How many rows, and which."""
        return {"best_k": self.finetuned.pruning.best_k, "pruned_rows": self.finetuned.pruning.pruned}


def measure_pruning(case: Case) -> PruningMethodResult:
    """Prune the fine-tuned model and the reference in the same way."""
    return PruningMethodResult(
        finetuned=_sweep(case, FINETUNED, list(case.both), case.config.random_masks),
        null=_sweep(case, NULL, ["capability"], 0),
        groups=case.few_groups,
    )


def check_prune_sizes(case: Case) -> None:
    """Refuse, before anything is measured, to prune more rows than a model has.

    Raises:
        ValueError: names ``prune_sizes``.
    """
    try:
        units = find_units(case.models[FINETUNED], "row")
    except ValueError:  # what cannot be pruned at all is refused where it is to be, which may never be
        return
    check_sizes(units, "row", case.config.prune_sizes, "prune_sizes")


def _sweep(case: Case, name: str, kinds: Sequence[str], random_masks: int) -> SweepResult:
    """Prune one model for the capability, on few rows."""
    config, asked = case.config, case.capability
    few = dataclasses.replace(
        asked,
        train=asked.train[: config.patch_rows],
        validation=asked.validation[: config.patch_rows],
        tests={kind: case.few(kind) for kind in kinds},
    )
    return prune_for(
        case.models[name], few, sizes=config.prune_sizes, num_random=min(random_masks, 1),
        num_random_at_best=random_masks, seed=case.seed,
        batch_size=backward_rows(case.in_place, asked.train.token_ids.shape[1]),
    )  # fmt: skip


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
    needs_weights=True,
    measure=measure_pruning,
    title="Zeroing a few rows of weights",
    pictures=(draw_pruning,),
    explain=explain_pruning,
    apart=Apart(lambda result: result, lambda packed, case: packed),
)
