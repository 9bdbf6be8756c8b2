"""A model whose weights have few bits, as a run: what quantisation leaves of a change of weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ftmech_hf.activations import block_matrices
from ftmech_hf.analysis.tampering import all_rounded
from ftmech_hf.jobs.job import ModelJobConfig, finish_job, job
from ftmech_hf.models.loading import quiet_transformers
from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.loop import Progress


@dataclass(frozen=True, kw_only=True)
class RoundConfig(ModelJobConfig):
    """Which model is rounded."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "its folder"})
    bits: int = field(default=4, metadata={"help": "of each weight of the matrices of blocks"})
    output_dir: str = field(default="runs/round", metadata={"place": "output", "help": "the run's folder"})


def round_model(config: RoundConfig, task: PcfgConfig, *, progress: Progress | None = None) -> RunDir:
    """Save a model with the matrices of its blocks rounded to nearest, with a scale for every output.

    Lee et al. (arXiv 2605.24614) take NF4, whose steps are closer near zero; these are all of one size. Numbers keep
    their type, so that anything can load it.
    """
    with job("round", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model = config.load(config.model)
        weights, axes = block_matrices(model)
        with torch.no_grad():
            for name, value in all_rounded(weights, axes, config.bits).items():
                weights[name].copy_(value)
        with quiet_transformers():
            model.save_pretrained(run.working)
        save_tokenizer(build_tokenizer(task.vocabulary), run.working)
        return finish_job(run, [{"matrix": name, "bits": config.bits} for name in weights], {"matrices": len(weights)})
