"""Does removing a few neurons of a saved model bring a capability back?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from ftmech_hf.activations import Units, find_units
from ftmech_hf.analysis.ablation import importance_agreement
from ftmech_hf.analysis.pruning import Importance, PruningResult, magnitude_importance, pruned, random_importance
from ftmech_hf.jobs.asking import (
    Asked,
    ask,
    asking_job,
    check_procedural,
    describe_dataset,
    find_capability,
)
from ftmech_hf.jobs.behavior import Behavior, from_task
from ftmech_hf.jobs.card import license_of, render_card
from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job
from ftmech_hf.jobs.pruning_sweep import behavior_importance, describe_controls, exact_importance, prune_for
from ftmech_hf.jobs.publication import Picture, Publication, as_percent, asked_name
from ftmech_hf.models.loading import load_tokenizer, quiet_transformers
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun, RunDir, describe_versions, disk_errors, environment, write_text
from ftmech_hf.statistics.floors import FloorResult
from ftmech_hf.tasks import PcfgShape, for_capability
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class PruneConfig(ModelJobConfig):
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
    num_random_at_best: int = field(default=30, metadata={"help": "random masks at the best number"})
    random_rows: int = field(default=128, metadata={"help": "rows per test set under random masks"})
    score_rows: int = field(default=512, metadata={"help": "rows the importance is computed on"})
    exact_rows: int = field(
        default=0, metadata={"help": "rows to also ablate every neuron by itself on, beside the scores; 0 for none"}
    )
    eval_rows: int = field(default=512, metadata={"help": "rows per test set"})
    save_pruned: bool = field(default=False, metadata={"help": "keep the best pruned model in the run's folder"})
    output_dir: str = field(default="runs/prune", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_random < 0:
            raise ValueError(f"num_random: {self.num_random}, expected 0 or more")
        check_positive(self, "max_best_k", "num_random_at_best", "random_rows", "score_rows", "eval_rows")
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


def prune(config: PruneConfig, asked: Asked, *, progress: Progress | None = None) -> RunDir:
    """Prune a model for what it may have lost in fine-tuning; see :mod:`ftmech_hf.analysis.pruning`.

    Of the procedural task that is the *pretraining* capability. Test sets: the base operand on natural text (twice:
    ``validation`` chooses K, ``count_a`` is reported), the correlated operand without and with the correlation. Of
    another task or a data set it is what they ask; test sets: ``validation``, ``test`` and those of the task.

    Raises:
        ValueError: a data set that cannot be asked.
    """
    asking = asking_job(lambda: _find_behavior(config, asked), "prune", config, asked, {"model": config.model})
    with asking as (run, behavior):
        if run.finished:
            return run
        model = config.load(config.model)
        scored = behavior().train
        found = prune_for(
            model,
            behavior(),
            unit=config.unit,
            sizes=config.sizes,
            max_best_k=config.max_best_k,
            num_random=config.num_random,
            num_random_at_best=config.num_random_at_best,
            random_rows=config.random_rows,
            seed=config.seed,
            score=lambda units: _score(config, model, units, behavior()),
            iterative=config.schedule == "iterative",
            progress=progress,
        )
        result, reported = found.pruning, next(iter(behavior().tests))
        by_set = {name: result.at_best("importance", name) for name in ("validation", *behavior().tests)}
        summary = {
            **result.summary(),
            "score": config.score,
            "schedule": config.schedule,
            "accuracy": by_set[reported],
            "accuracy_by_set": by_set,
            "rows": len(behavior().tests[reported]),
            **describe_controls(found, behavior(), reported),
            **describe_dataset(behavior(), asked),
        }
        if config.exact_rows:
            exact = exact_importance(model, scored[: config.exact_rows], config.unit)
            agreement = importance_agreement(found.importance, exact, top=config.max_best_k, seed=config.seed)
            summary["exact"] = {**agreement.summary(), "by_group": agreement.by_group}
            _write_importance(run, found.importance, exact)
        if config.save_pruned:
            with pruned(find_units(model, config.unit), result.best_mask):
                _save_pruned(config, run, model, asked, result, summary, behavior().floors)
        return finish_job(run, result.rows(), summary, floors=behavior().floors)


def _find_behavior(config: PruneConfig, asked: Asked) -> Behavior:
    fit_rows = max(config.score_rows, config.exact_rows)
    if not isinstance(asked, PcfgShape):
        check_procedural(config, "operator")
        return ask(asked, [config.model], seed=config.seed, train_rows=fit_rows, test_rows=config.eval_rows)
    operands = (asked.base_operand, asked.correlated_operand)
    base, other = (find_capability(asked, config.operator, name) for name in operands)
    tests = {str(base): for_capability(asked, base)}
    tests |= {f"{other}_cte{share}": for_capability(asked, other, float(share)) for share in (0, 1)}
    return from_task(
        tests[str(base)], tests=tests, seed=config.seed, train_rows=fit_rows, test_rows=config.eval_rows, name=str(base)
    )


def _score(config: PruneConfig, model: PreTrainedModel, units: Units, behavior: Behavior) -> Importance:
    if config.score == "magnitude":
        return magnitude_importance(units)
    if config.score == "random":
        return random_importance(units, np.random.default_rng([config.seed, 1]))
    rows = behavior.train[: config.score_rows]
    if config.score == "exact":
        return exact_importance(model, rows, config.unit)
    return behavior_importance(model, units, behavior, rows)


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
    asked: Asked,
    result: PruningResult,
    summary: Mapping[str, Any],
    floors: Mapping[str, FloorResult],
) -> None:
    """An ordinary model folder: weights with zeros where units were, tokenizer, card."""
    words = asked.vocabulary if isinstance(asked, PcfgShape) else None
    tokenizer = load_tokenizer(config.model) if words is None else build_tokenizer(words)
    with quiet_transformers(), disk_errors(run.working):
        model.save_pretrained(run.working)
        save_tokenizer(tokenizer, run.working)
    card = render_card(
        "pruned.md.j2",
        title=run.path.name,
        licence=license_of(run.config, FinishedRun(run.working).env),
        where=str(run.path),
        config=config,
        hash=run.hash,
        architecture=type(model).__name__,
        pruned=result.pruned,
        accuracy=summary["accuracy_by_set"],
        random=summary,
        floors={name: found.floor for name, found in floors.items()},
        versions=describe_versions(environment()),
    )
    write_text(run.working / "README.md", card)


UNITS = {
    "row": "rows of weight matrices",
    "weight": "weights",
    "activation": "MLP activations",
    "head": "attention heads",
}


def _state(run: FinishedRun, label: str) -> list[str]:
    config, summary = run.config, run.summary
    return [
        f"With {summary['best_k']} {UNITS[config['unit']]} set to zero, a number chosen on other rows, it answers "
        f"`{asked_name(run)}` right in {as_percent(summary['accuracy'])} of {summary['rows']} prompts; with as many "
        f"random ones, on {summary['random_rows']} of them, in "
        f"{as_percent(summary['random_accuracy'])} ({as_percent(summary['random_low'])} to "
        f"{as_percent(summary['random_high'])} over {summary['random_masks']} choices of them"
        f"{_half_as_well(summary['random_share'])}){_beside_floor(run)}. "
        f"(seed {config['seed']})"
    ]


def _half_as_well(share: float | None) -> str:
    return "" if share is None else f", of which {as_percent(share)} gain half as much"


def _beside_floor(run: FinishedRun) -> str:
    floor = next((found["floor"] for found in run.floors.values()), None)  # of the test set it was pruned for
    return "" if floor is None else f", and always giving one answer would be right in {as_percent(floor)}"


def _draw(run: FinishedRun) -> list[Picture]:
    from ftmech_hf.jobs.figures import draw_pruning  # jobs start without matplotlib

    unit = UNITS[run.config["unit"]]
    caption = f"Accuracy against the number of {unit} set to zero, beside random ones"
    file = f"pruning_{run.config['unit']}.png"
    return [Picture(file, caption, lambda ax: draw_pruning(ax, {0: {"prune": run}}, "prune", None, f"Pruned {unit}"))]


PUBLICATIONS = (
    Publication(
        kind="prune",
        holds="table",
        question="Does zeroing a few neurons bring a capability back?",
        state=_state,
        pictures=_draw,
    ),
)
