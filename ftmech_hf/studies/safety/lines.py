"""What lies between the base and a tuned model, and beyond it, beside other directions? (Sect. 4.2 of the paper.)

On its own line a model has the weights of the base and ``alpha`` times the change; below 0 it goes the other way, where
nothing is refused if it is the change that refuses. Beyond 1 the same length is also gone in other directions: that of
another protocol (are their changes exchangeable?), the change turned at random (same norms, same singular values), the
change of benign tuning, and that of refusals that no prompt explains, each parameter at the norm of the model's own
change.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.models.directions import turn_at_random
from ftmech_hf.models.identity import base_for
from ftmech_hf.models.interpolation import interpolate_weights
from ftmech_hf.models.loading import load_model
from ftmech_hf.models.stored import stored_tensors
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.safety.answers import read_answers
from ftmech_hf.tasks import Rows, RowStream, SafetyConfig
from ftmech_hf.training.loop import Progress

ATTACKED = ("co_task", "co_text_2", "misgen", "ood_text")
"""Attacks whose refusals are counted."""

BEYOND = (1.5, 2.0)
WITHIN = (-0.5, 0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class LinesConfig(JobConfig):
    """Between which models, and whose directions are tried beside."""

    base: str = field(default="runs/pretrain", metadata={"place": "input", "help": "folder of the base"})
    finetuned: str = field(default="runs/finetune", metadata={"place": "input", "help": "what it was tuned into"})
    benign: str = field(default="runs/benign", metadata={"place": "input", "help": "the base after benign tuning"})
    shuffled: str = field(default="runs/shuffled", metadata={"place": "input", "help": "after shuffled refusals"})
    other: str = field(default="runs/dpo", metadata={"place": "input", "help": "after another protocol"})
    eval_rows: int = field(default=192, metadata={"help": "prompts of each mixture"})
    output_dir: str = field(default="runs/lines", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows")


def moved_end(
    base: PreTrainedModel, tuned: PreTrainedModel, other: PreTrainedModel | None, *, seed: int
) -> PreTrainedModel:
    """The tuned model, moved by another direction as far as tuning moved it, parameter by parameter.

    Args:
        base, tuned: between which tuning moved.
        other: whose change from the base is the direction; None for the tuned model's own, turned at random.
        seed: of the turning.
    """
    end, generator = copy.deepcopy(tuned), torch.Generator().manual_seed(seed)
    start = stored_tensors(base)
    there = None if other is None else stored_tensors(other)
    with torch.no_grad():
        for name, parameter in stored_tensors(end).items():
            own = parameter - start[name]
            if there is None:
                parameter.add_(turn_at_random(own, generator))
            else:
                direction = there[name] - start[name]
                parameter.add_(direction * (own.norm() / direction.norm().clamp(min=1e-12)))
    return end


def points(
    base: PreTrainedModel, tuned: PreTrainedModel, ends: dict[str, PreTrainedModel]
) -> Iterator[tuple[str, float, PreTrainedModel]]:
    """(direction, alpha, model at that point); a model is overwritten by the next one."""
    between = copy.deepcopy(base)
    for alpha in (*WITHIN, *BEYOND):
        yield "own", alpha, interpolate_weights(base, tuned, alpha, into=between)
    for direction, end in ends.items():
        for alpha in BEYOND:
            yield direction, alpha, interpolate_weights(tuned, end, alpha - 1, into=between)


def measure_lines(config: LinesConfig, task: SafetyConfig, *, progress: Progress | None = None) -> RunDir:
    """Answers and refusals along a model's line, and beyond it in other directions."""
    models = {name: getattr(config, name) for name in ("base", "finetuned", "benign", "shuffled", "other")}
    with job("safety_lines", config, task, models=models, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run

        def rows_of(mixture: str, answers: str, split: str) -> Rows:
            return RowStream(task.asking(mixture, answers), seed=config.seed, split=split).rows(0, config.eval_rows)

        wanted = {"safe": "instructed", **dict.fromkeys(("unsafe", *ATTACKED), "refused")}
        asked = {
            split: {name: rows_of(name, answers, split) for name, answers in wanted.items()}
            for split in ("validation", "test")
        }
        below: dict[str, Any] = {name: base_for(name, models) for name in models}
        loaded = (load_model(folder, **below[name]) for name, folder in models.items())
        base, tuned, benign, shuffled, protocol = loaded
        others = {"random": None, "benign": benign, "shuffled": shuffled, "protocol": protocol}
        ends = {name: moved_end(base, tuned, other, seed=config.seed) for name, other in others.items()}
        table: list[dict[str, Any]] = []
        number = len(WITHIN) + (1 + len(ends)) * len(BEYOND)
        for done, (direction, alpha, model) in enumerate(points(base, tuned, ends), start=1):
            for split, mixtures in asked.items():
                table += [
                    {"direction": direction, "alpha": alpha, "split": split, "mixture": name, "rows": len(rows),
                     "value": float(read_answers(model, rows).right.all(1).mean())}
                    for name, rows in mixtures.items()
                ]  # fmt: skip
            if progress is not None:
                progress(done, number, f"{direction} {alpha:g}")
        return finish_job(run, table, {"answer": wanted})
