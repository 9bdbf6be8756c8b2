"""What lies on the straight line between a model and what it was fine-tuned into (WiSE-FT)?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.job import ModelJobConfig, check_positive, finish_job, first_of, job, parse_models
from ftmech_hf.jobs.publication import Publication
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.interpolation import interpolate_weights
from ftmech_hf.models.loading import quiet_transformers
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import RunDir, disk_errors
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.tasks.floors import stream_floor
from ftmech_hf.training.evaluation import answer_accuracy
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class InterpolateConfig(ModelJobConfig):
    """Between which models, and at which points."""

    models: list[str] = field(
        default_factory=lambda: ["base=runs/pretrain", "finetuned=runs/finetune"],
        metadata={"place": "input", "help": "name=folder of the two ends"},
    )
    alphas: list[float] = field(
        default_factory=lambda: [0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
        metadata={"help": "shares of the way: 0 is the first model, 1 the second, more than 1 beyond it"},
    )
    save_alpha: float | None = field(
        default=None, metadata={"help": "keep the model at this share, in the run's folder"}
    )
    eval_rows: int = field(default=512, metadata={"help": "rows per test set"})
    output_dir: str = field(default="runs/interpolate", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows")
        if len(parse_models(self.models)) != 2:
            raise ValueError(f"models: {' '.join(self.models)!r}, expected two, such as base=... finetuned=...")
        if not self.alphas:
            raise ValueError("alphas: none, expected at least one share of the way")
        for name, value in [*(("alphas", each) for each in self.alphas), ("save_alpha", self.save_alpha or 0.0)]:
            if not math.isfinite(value):
                raise ValueError(f"{name}: {value}, expected finite numbers")

    def inputs(self) -> dict[str, str]:
        """Which end is the first, where that is not the usual one."""
        return first_of(self.models)


def interpolate(config: InterpolateConfig, task: PcfgConfig, *, progress: Progress | None = None) -> RunDir:
    """Evaluate the models between two models on the test sets of ``task``; keep one of them if asked to.

    Wortsman et al., "Robust fine-tuning of zero-shot models" (arXiv 2109.01903).
    """
    models = parse_models(config.models)
    with job("interpolate", config, task, models=models, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        tests = {name: RowStream(each, seed=config.seed, split="test") for name, each in task.test_tasks().items()}
        rows = {name: torch.from_numpy(each.rows(0, config.eval_rows).token_ids) for name, each in tests.items()}
        first, second = (config.load(folder, **base_for(name, models)) for name, folder in models.items())
        table: list[dict[str, Any]] = []
        mixed: PreTrainedModel | None = None
        for number, alpha in enumerate(config.alphas):
            mixed = interpolate_weights(first, second, alpha, into=mixed)
            table.append({"alpha": alpha, **{name: answer_accuracy(mixed, each) for name, each in rows.items()}})
            if progress is not None:
                progress(number + 1, len(config.alphas), f"{alpha:g}")
        if config.save_alpha is not None:
            mixed = interpolate_weights(first, second, config.save_alpha, into=mixed)
            with quiet_transformers(), disk_errors(run.working):
                mixed.save_pretrained(run.working)
                save_tokenizer(build_tokenizer(task.vocabulary), run.working)
        floors = {name: stream_floor(each, config.eval_rows) for name, each in tests.items()}
        return finish_job(run, table, {"models": list(models), "save_alpha": config.save_alpha}, floors=floors)


PUBLICATIONS = (
    Publication(kind="interpolate", holds="table", question="What lies on the straight line between two models?"),
)
