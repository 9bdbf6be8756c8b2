"""How far are saved models from the exact distribution of their data?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.analysis.divergence import divergence_from_truth
from ftmech_hf.jobs.job import (
    ModelJobConfig,
    check_positive,
    finish_job,
    first_of,
    job,
    load_named,
    one_by_one,
    parse_models,
)
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.runs import FinishedRun, RunDir
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.tasks.exact_distribution import check_untouched, row_truth
from ftmech_hf.tasks.schema import TEXT
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class TruthConfig(ModelJobConfig):
    """Which models to compare with the exact distribution of their data."""

    models: list[str] = field(
        default_factory=lambda: ["base=runs/pretrain"], metadata={"place": "input", "help": "name=folder of each model"}
    )
    rows: int = field(default=512, metadata={"help": "test rows"})
    output_dir: str = field(default="runs/truth", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "rows")
        parse_models(self.models)

    def inputs(self) -> dict[str, str]:
        """Which model the random twin is like, where that is not the usual one."""
        return first_of(self.models)


ROW_PARTS = {
    "operator": slice(1, 2),
    "operand": slice(2, 3),
    "text": TEXT,
    "answer": slice(-2, -1),
    "whole row": slice(1, None),
}


def compare_with_truth(config: TruthConfig, task: PcfgConfig, *, progress: Progress | None = None) -> RunDir:
    """KL from the exact next-token distribution, loss and lowest possible loss of each model, and of random weights.

    The rows are those of ``task``: a model should be compared on the distribution it was trained on.
    """
    check_untouched(task)
    models = parse_models(config.models)
    with job("truth", config, task, models=models, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        rows = RowStream(task, seed=config.seed, split="test").rows(0, config.rows)
        truth = row_truth(task, rows.token_ids)
        token_ids = torch.from_numpy(rows.token_ids)
        table, summary = [], {}
        for number, name in one_by_one((*models, RANDOM_INIT)):
            logits = _logits(load_named(config, models, name), token_ids)
            result = divergence_from_truth(logits, torch.from_numpy(truth.probabilities), token_ids, ROW_PARTS)
            table += [{"model": name, **row} for row in result.rows()]
            summary[name] = result.summary()
            if progress is not None:
                progress(number, len(models) + 1, f"{name}: KL {result.kl['whole row']:.3f} nats per token")
        return finish_job(run, table, {**summary, "largest_error_of_the_truth": float(truth.error.max())})


@torch.no_grad()
def _logits(model: PreTrainedModel, token_ids: Tensor) -> Tensor:
    return torch.cat([model(part[:, :-1].to(model.device)).logits.cpu() for part in token_ids.split(128)])


def _state(run: FinishedRun, label: str) -> list[str]:
    if label not in run.summary:
        return []
    mine, control = run.summary[label], run.summary.get(RANDOM_INIT, {})
    return [
        f"KL(truth || model) on the exact distribution of its data: {mine['whole row']:.4f} nats per token "
        f"({control.get('whole row', float('nan')):.2f} with random weights)."
    ]


PUBLICATIONS = (
    Publication(
        kind="truth",
        holds="table",
        question="How far are models from the exact distribution of their data?",
        state=_state,
    ),
)
