"""Pruning a model that is in memory for a behavior: what every job and study that prunes does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import Unit, Units, ablated_losses, find_units
from ftmech_hf.analysis.pruning import (
    Importance,
    Mask,
    PruningResult,
    gradient_importance,
    prune_sweep,
    pruned,
)
from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.jobs.padding import padding_masked
from ftmech_hf.models.vocabulary import num_rows
from ftmech_hf.statistics.clusters import groups_at, paired_lead, share_right
from ftmech_hf.statistics.draws import mean_over_draws
from ftmech_hf.statistics.floors import most_frequent
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True)
class SweepResult:
    """What pruning a model for a behavior gave.

    Attributes:
        pruning: the curve and the best number.
        importance: of every unit of the whole model.
        scores: for every entry of the curve, in its order: the score of each row of the test sets it was measured on.
    """

    pruning: PruningResult
    importance: Importance
    scores: list[dict[str, Tensor]]

    def at_best(self, method: str, test_set: str) -> list[Tensor]:
        """Scores of the rows of a test set under the masks of one method at the chosen number of units."""
        return [
            found[test_set]
            for entry, found in zip(self.pruning.curve, self.scores, strict=True)
            if (entry["method"], entry["num_pruned"]) == (method, self.pruning.best_k)
        ]


def prune_for(
    model: PreTrainedModel,
    behavior: Behavior,
    *,
    unit: Unit = "row",
    sizes: Sequence[int],
    max_best_k: int | None = None,
    num_random: int = 1,
    num_random_at_best: int = 1,
    seed: int = 0,
    controls: Sequence[str] | None = None,
    random_rows: int | None = None,
    score: Callable[[Units], Importance] | None = None,
    iterative: bool = False,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> SweepResult:
    """Prune growing numbers of units for a behavior, choose a number on its validation rows, report its test sets.

    Args:
        model: comes back as it was, bit for bit.
        behavior: importances are computed on its ``train`` rows, unless ``score`` says otherwise.
        unit: what is pruned.
        sizes: numbers of units to prune.
        max_best_k: the best number is chosen up to here; the largest of ``sizes`` if None.
        num_random: random masks per number of units.
        num_random_at_best: random masks at the best number, at least.
        seed: of the random masks.
        controls, random_rows: test sets that are measured under random masks too, the first one if None; and their
            first rows that are, all if None.
        score: importance of the units of the model as it is then; gradient x weight if None.
        iterative: compute the importance again under each mask before it grows.
        batch_size: rows of one backward pass.
        progress: called after every mask.
    """
    units = find_units(model, unit)
    check_sizes(units, unit, sizes)
    score = score or (lambda units: behavior_importance(model, units, behavior, behavior.train, batch_size=batch_size))
    total = len(set(sizes)) + num_random * sum(k > 0 for k in set(sizes)) + max(0, num_random_at_best - num_random)
    measured = _Measured(model, units, behavior, total, random_rows, progress)

    def rescore(mask: Mask) -> Importance:
        with pruned(units, mask):
            return score(units)

    importance = score(units)
    # the importance may ask the model in other ways
    with contextlib.nullcontext() if iterative else behavior.answered_alone(model):
        result = prune_sweep(
            importance, measured.under, measured.under_random, unit=unit, test_sets=list(measured.sets),
            control_sets=list(controls or [*behavior.tests][:1]), sizes=sizes,
            max_best_k=max(sizes) if max_best_k is None else max_best_k, chosen_on="validation", num_random=num_random,
            num_random_at_best=num_random_at_best, seed=seed, rescore=rescore if iterative else None,
            unit_name=lambda group, number: units[group].name(group, number),
        )  # fmt: skip
    return SweepResult(result, importance, measured.scores)


def check_sizes(units: Units, unit: Unit, sizes: Sequence[int], setting: str = "sizes") -> None:
    """Refuse to prune more units than a model has.

    Args:
        units: of the model.
        unit: what they are called.
        sizes: numbers of units to prune.
        setting: that says how many, for errors.

    Raises:
        ValueError: the model has fewer.
    """
    if (largest := max(sizes)) > (number := sum(each.num_units for each in units.values())):
        raise ValueError(f"{setting}: {largest}, expected at most {number}: the model has no more of unit: {unit}")


class _Measured:
    """A behavior's scores under masks, in the order in which they are measured."""

    def __init__(
        self,
        model: PreTrainedModel,
        units: Units,
        behavior: Behavior,
        total: int,
        random_rows: int | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.units, self.behavior, self.total, self.progress = model, units, behavior, total, progress
        self.random_rows = random_rows
        self.sets = {"validation": behavior.validation, **behavior.tests}
        self.scores: list[dict[str, Tensor]] = []

    def under_random(self, mask: Mask, names: Sequence[str]) -> dict[str, float]:
        """Mean score of the first rows of each named set under a random mask."""
        return self.under(mask, names, self.random_rows)

    def under(self, mask: Mask, names: Sequence[str], rows: int | None = None) -> dict[str, float]:
        """Mean score of each named set, or of its first rows, under a mask."""
        with pruned(self.units, mask):
            self.scores.append({name: self.behavior.score(self.model, self.sets[name][:rows]) for name in names})
        if self.progress is not None:
            self.progress(len(self.scores), self.total, "")
        return {name: float(found.double().mean()) for name, found in self.scores[-1].items()}


def behavior_importance(
    model: PreTrainedModel, units: Units, behavior: Behavior, rows: AnswerRows, *, batch_size: int = 64
) -> Importance:
    """Gradient x weight of every unit, for the behavior's loss on some rows."""
    return gradient_importance(
        units,
        lambda batch: behavior.loss(model, batch),
        rows,
        batch_size=batch_size,
        weight=lambda batch: batch.num_answer_tokens,
    )


def exact_importance(model: PreTrainedModel, rows: AnswerRows, unit: Unit) -> Importance:
    """How much the loss of the answers falls when each unit is zeroed by itself, in nats."""
    if rows.pad is None and bool((rows.lengths > 1).any()):  # a row of each token of an answer is shorter than the last
        unused = set(range(num_rows(model))) - set(rows.token_ids.unique().tolist())
        rows = dataclasses.replace(rows, pad=min(unused, default=None))
    each = rows.each_token()
    with padding_masked(model, each.pad):
        whole, losses = ablated_losses(model, each.token_ids[:, :-2], each.token_ids[:, -2], unit)
    return {name: whole - values for name, values in losses.items()}


def describe_controls(found: SweepResult, behavior: Behavior, reported: str) -> dict[str, Any]:
    """What a summary says beside the accuracy under the best mask.

    Returns:
        ``random_accuracy``, its interval over masks and rows (``random_low``, ``random_high``), how many masks and rows
        that were, and the share of the masks that gain at least half of what the best mask does on the same rows
        (``random_share``; None where that gains nothing);
        ``gain``: right under the best mask less right without any, or less right by always giving the answer that is
        right most often, whichever of both is more, on the same rows; less the floor, where it is known and not
        counted, if that is more than both.
    """
    (best,) = found.at_best("importance", reported)
    random = torch.stack(found.at_best("random", reported)).double()
    groups, rows = behavior.tests[reported].groups, random.shape[1]
    mean, low, high = mean_over_draws(random.numpy(), groups_at(groups, slice(rows)))
    controls = {}
    if behavior.floor is None:
        right = behavior.tests[reported].right_ids()
        most = most_frequent([answer for each in right for answer in each])
        controls["constant answer"] = torch.tensor([most in each for each in right])
    without = [
        scores[reported]
        for entry, scores in zip(found.pruning.curve, found.scores, strict=True)
        if entry["num_pruned"] == 0
    ]
    if without:
        controls["nothing pruned"] = without[0]
    over = max(controls, key=lambda name: float(controls[name].double().mean()), default="floor")
    gain = None if over == "floor" else paired_lead(best.numpy(), controls[over].numpy(), groups)
    if behavior.floor is not None and (gain is None or float(controls[over].double().mean()) < behavior.floor):
        over, own = "floor", share_right(best.numpy(), groups)
        gain = Share(*(each - behavior.floor for each in own))
    assert gain is not None
    with_best = float(best[:rows].double().sum())
    before = float(controls[over][:rows].double().sum()) if over in controls else float(behavior.floor or 0) * rows
    return {
        "random_accuracy": mean,
        "random_low": low,
        "random_high": high,
        "random_masks": len(random),
        "random_rows": rows,
        "random_share": float((2 * random.sum(1) >= with_best + before).double().mean())
        if with_best > before
        else None,
        "gain": {"over": over, **gain._asdict()},
    }
