"""Does removing a few neurons of a saved model bring a capability back?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, model_blocks
from ftmech_hf.analysis.pruning import Importance, Mask, neuron_matrices, prune_sweep, pruned_rows, row_importance
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.common import (
    StudyConfig,
    capability_rows,
    check_positive,
    finish_study,
    open_study,
)
from ftmech_hf.tasks import Capability, PcfgShape
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import answer_accuracy, answer_only_loss


@dataclass(frozen=True, kw_only=True)
class PruneConfig(StudyConfig):
    """Which model to prune, and how."""

    model: str = field(default="runs/finetune", metadata={"help": "folder of a run, or a model on the Hub"})
    operator: str = field(default="count", metadata={"help": "task token of the capability"})
    unit: Literal["row", "activation"] = field(
        default="row", metadata={"help": "a neuron is a row of a weight matrix (paper), or one MLP activation"}
    )
    sizes: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50],
        metadata={"help": "numbers of neurons to prune"},
    )
    max_best_k: int = field(default=15, metadata={"help": "the best number is chosen up to here"})
    num_random: int = field(default=1, metadata={"help": "random masks per number of neurons"})
    num_random_at_best: int = field(default=10, metadata={"help": "random masks at the best number"})
    score_rows: int = field(default=512, metadata={"help": "rows the importance is computed on"})
    eval_rows: int = field(default=512, metadata={"help": "rows per test set"})
    output_dir: str = field(default="runs/prune", metadata={"help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_best_k", "num_random_at_best", "score_rows", "eval_rows")
        if not self.sizes or min(self.sizes) < 0:
            raise ValueError(f"sizes: {self.sizes}, expected numbers of 0 or more")


def prune(config: PruneConfig, task: PcfgShape, *, progress: Progress | None = None) -> RunDir:
    """Prune a fine-tuned model for the *pretraining* capability; see :mod:`ftmech_hf.analysis.pruning`.

    Test sets: the base operand on natural text (twice: ``validation`` chooses K, ``count_a`` is reported), the
    correlated operand without and with the correlation.
    """
    run = open_study("prune", config, task, {"model": config.model})
    if run.finished:
        return run
    base, other = (Capability(config.operator, name) for name in (task.base_operand, task.correlated_operand))

    def token_ids(capability: Capability, split: str, correlation: float | None = None) -> Tensor:
        number = config.score_rows if split == "probe" else config.eval_rows
        return torch.from_numpy(capability_rows(task, capability, split, config.seed, number, correlation).token_ids)

    test_sets = {
        "validation": token_ids(base, "validation"),
        str(base): token_ids(base, "test"),
        f"{other}_cte0": token_ids(other, "test", 0.0),
        f"{other}_cte1": token_ids(other, "test", 1.0),
    }
    scored = token_ids(base, "probe")
    done = 0
    total = len(config.sizes) + config.num_random * sum(k > 0 for k in config.sizes)
    total += max(0, config.num_random_at_best - config.num_random)

    def counted(accuracy_of: Callable[[Mask, Tensor], float]) -> Callable[[Mask, Sequence[str]], dict[str, float]]:
        def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total, "")
            return {name: accuracy_of(mask, test_sets[name]) for name in names}

        return evaluate

    model = load_model(config.model)
    measure = _rows_unit if config.unit == "row" else _activations_unit
    try:
        importance, accuracy_of = measure(model, scored)
        result = prune_sweep(
            importance,
            counted(accuracy_of),
            unit=config.unit,
            test_sets=list(test_sets),
            control_sets=[str(base)],
            sizes=config.sizes,
            max_best_k=config.max_best_k,
            chosen_on="validation",
            num_random=config.num_random,
            num_random_at_best=config.num_random_at_best,
            seed=config.seed,
        )
        by_set = {name: result.at_best("importance", name) for name in test_sets}
        at_best = {
            "accuracy": by_set[str(base)],
            "accuracy_by_set": by_set,
            "random_accuracy": result.at_best("random", str(base)),
        }
        return finish_study(run, result.rows(), {**result.summary(), **at_best})
    finally:
        run.close()


def _rows_unit(model: PreTrainedModel, scored: Tensor) -> tuple[Importance, Callable[[Mask, Tensor], float]]:
    matrices = neuron_matrices(model_blocks(model))
    importance: Importance = {}
    for rows in scored.split(64):
        part = row_importance(matrices, lambda rows=rows: answer_only_loss(model, rows))  # type: ignore[misc]
        for name, values in part.items():
            importance[name] = importance.get(name, torch.zeros(())) + values * (len(rows) / len(scored))

    def accuracy_of(mask: Mask, token_ids: Tensor) -> float:
        with pruned_rows(matrices, mask):
            return answer_accuracy(model, token_ids)

    return importance, accuracy_of


def _activations_unit(model: PreTrainedModel, scored: Tensor) -> tuple[Importance, Callable[[Mask, Tensor], float]]:
    traced = TracedModel(model)
    by_layer = traced.activation_importance(scored)
    importance = {f"mlp_act.{layer}": values for layer, values in enumerate(by_layer)}

    def accuracy_of(mask: Mask, token_ids: Tensor) -> float:
        return traced.masked_accuracy(token_ids, torch.stack(list(mask.values())))

    return importance, accuracy_of
