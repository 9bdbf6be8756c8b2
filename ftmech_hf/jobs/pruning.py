"""Does removing a few neurons of a saved model bring a capability back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import Unit, Units, ablated_losses, find_units
from ftmech_hf.analysis.ablation import importance_agreement
from ftmech_hf.analysis.pruning import (
    Importance,
    Mask,
    PruningResult,
    gradient_importance,
    magnitude_importance,
    prune_sweep,
    pruned,
    random_importance,
)
from ftmech_hf.jobs.card import render_card
from ftmech_hf.jobs.job import JobConfig, capability_rows, check_positive, finish_job, job
from ftmech_hf.models.loading import load_model, quiet_transformers
from ftmech_hf.runs import RunDir, describe_versions, environment, write_text
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.training.evaluation import answer_accuracy
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import answer_only_loss


@dataclass(frozen=True, kw_only=True)
class PruneConfig(JobConfig):
    """Which model to prune, and how."""

    model: str = field(
        default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or a model on the Hub"}
    )
    operator: str = field(default="count", metadata={"help": "task token of the capability"})
    unit: Literal["weight", "row", "activation", "head"] = field(
        default="row",
        metadata={"help": "a neuron is a row of a weight matrix (paper), a weight, an MLP activation or a head"},
    )
    score: Literal["gradient", "exact", "magnitude", "random"] = field(
        default="gradient",
        metadata={"help": "prune first what lowers the loss most to first order (paper) or exactly, or baselines"},
    )
    schedule: Literal["single", "iterative"] = field(
        default="single", metadata={"help": "score once (paper), or again under each mask before it grows"}
    )
    sizes: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50],
        metadata={"help": "numbers of neurons to prune"},
    )
    max_best_k: int = field(default=15, metadata={"help": "the best number is chosen up to here"})
    num_random: int = field(default=1, metadata={"help": "random masks per number of neurons"})
    num_random_at_best: int = field(default=10, metadata={"help": "random masks at the best number"})
    score_rows: int = field(default=512, metadata={"help": "rows the importance is computed on"})
    exact_rows: int = field(
        default=0, metadata={"help": "rows to also ablate every neuron by itself on, beside the scores; 0 for none"}
    )
    eval_rows: int = field(default=512, metadata={"help": "rows per test set"})
    save_pruned: bool = field(default=False, metadata={"help": "keep the best pruned model in the run's folder"})
    output_dir: str = field(default="runs/prune", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_best_k", "num_random_at_best", "score_rows", "eval_rows")
        if not self.sizes or min(self.sizes) < 0:
            raise ValueError(f"sizes: {self.sizes}, expected numbers of 0 or more")
        if not any(0 < size <= self.max_best_k for size in self.sizes):
            raise ValueError(f"sizes: {self.sizes}, expected at least one from 1 to max_best_k: {self.max_best_k}")
        if self.exact_rows < 0:
            raise ValueError(f"exact_rows: {self.exact_rows}, expected 0 or more")
        if self.unit == "weight" and (self.exact_rows or self.score == "exact"):
            raise ValueError("unit: weight has too many units to ablate each; leave out exact_rows and score: exact")
        if self.schedule == "iterative" and self.score in ("magnitude", "random"):
            raise ValueError(f"schedule: iterative, but score: {self.score} does not depend on what is pruned already")


def prune(config: PruneConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Prune a fine-tuned model for the *pretraining* capability; see :mod:`ftmech_hf.analysis.pruning`.

    Test sets: the base operand on natural text (twice: ``validation`` chooses K, ``count_a`` is reported), the
    correlated operand without and with the correlation.
    """
    with job("prune", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        base, other = (Capability(config.operator, name) for name in (task.base_operand, task.correlated_operand))

        def token_ids(capability: Capability, split: str, number: int, correlation: float | None = None) -> Tensor:
            return torch.from_numpy(
                capability_rows(task, capability, split, config.seed, number, correlation).token_ids
            )

        test_sets = {
            "validation": token_ids(base, "validation", config.eval_rows),
            str(base): token_ids(base, "test", config.eval_rows),
            f"{other}_cte0": token_ids(other, "test", config.eval_rows, 0.0),
            f"{other}_cte1": token_ids(other, "test", config.eval_rows, 1.0),
        }
        scored = token_ids(base, "probe", max(config.score_rows, config.exact_rows))
        model = load_model(config.model)
        units = find_units(model, config.unit)
        importance = _score(config, model, units, scored)
        exact = _exact_importance(config, model, scored[: config.exact_rows]) if config.exact_rows else None
        result = sweep_masks(config, model, units, importance, scored, test_sets, progress)
        by_set = {name: result.at_best("importance", name) for name in test_sets}
        summary = {
            **result.summary(),
            "score": config.score,
            "schedule": config.schedule,
            "accuracy": by_set[str(base)],
            "accuracy_by_set": by_set,
            "random_accuracy": result.at_best("random", str(base)),
        }
        if exact is not None:
            agreement = importance_agreement(importance, exact, top=config.max_best_k, seed=config.seed)
            summary["exact"] = {**agreement.summary(), "by_group": agreement.by_group}
            _write_importance(run, importance, exact)
        if config.save_pruned:
            with pruned(units, result.best_mask):
                _save_pruned(config, run, model, task.vocabulary, result, summary)
        return finish_job(run, result.rows(), summary)


def sweep_masks(
    config: PruneConfig,
    model: PreTrainedModel,
    units: Units,
    importance: Importance,
    scored: Tensor,
    test_sets: Mapping[str, Tensor],
    progress: Progress | None,
) -> PruningResult:
    """Evaluate every mask on the one model in memory."""
    done = 0
    total = len(set(config.sizes)) + config.num_random * sum(k > 0 for k in set(config.sizes))
    total += max(0, config.num_random_at_best - config.num_random)

    def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, "")
        with pruned(units, mask):
            return {name: answer_accuracy(model, test_sets[name]) for name in names}

    def rescore(mask: Mask) -> Importance:
        with pruned(units, mask):
            return _score(config, model, units, scored)

    names = list(test_sets)
    return prune_sweep(
        importance,
        evaluate,
        unit=config.unit,
        test_sets=names,
        control_sets=[names[1]],
        sizes=config.sizes,
        max_best_k=config.max_best_k,
        chosen_on=names[0],
        num_random=config.num_random,
        num_random_at_best=config.num_random_at_best,
        seed=config.seed,
        rescore=rescore if config.schedule == "iterative" else None,
        unit_name=lambda group, number: units[group].name(group, number),
    )


def _score(config: PruneConfig, model: PreTrainedModel, units: Units, scored: Tensor) -> Importance:
    if config.score == "magnitude":
        return magnitude_importance(units)
    if config.score == "random":
        return random_importance(units, np.random.default_rng([config.seed, 1]))
    rows = scored[: config.score_rows]
    if config.score == "exact":
        return _exact_importance(config, model, rows)
    return gradient_importance(units, lambda batch: answer_only_loss(model, batch.to(model.device)), rows)


def _exact_importance(config: PruneConfig, model: PreTrainedModel, rows: Tensor) -> Importance:
    unit: Unit = config.unit
    whole, losses = ablated_losses(model, rows[:, :-2], rows[:, -2], unit)
    return {name: whole - values for name, values in losses.items()}


def _write_importance(run: RunDir, importance: Importance, exact: Importance) -> None:
    """Every unit's score and what ablating it really does, in nats."""
    table = [
        {"group": group, "number": number, "score": float(score), "exact": float(value)}
        for group, scores in importance.items()
        for number, (score, value) in enumerate(zip(scores, exact[group], strict=True))
    ]
    pd.DataFrame(table).to_parquet(run.working / "importance.parquet", index=False)


def _save_pruned(
    config: PruneConfig,
    run: RunDir,
    model: PreTrainedModel,
    vocabulary: Sequence[str],
    result: PruningResult,
    summary: Mapping[str, Any],
) -> None:
    """An ordinary model folder: weights with zeros where units were, tokenizer, card."""
    with quiet_transformers():
        model.save_pretrained(run.working)
    save_tokenizer(build_tokenizer(vocabulary), run.working)
    card = render_card(
        "pruned.md.j2",
        title=run.path.name,
        where=str(run.path),
        config=config,
        hash=run.hash,
        architecture=type(model).__name__,
        pruned=result.pruned,
        accuracy=summary["accuracy_by_set"],
        random_accuracy=summary["random_accuracy"],
        versions=describe_versions(environment()),
    )
    write_text(run.working / "README.md", card)
