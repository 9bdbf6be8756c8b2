"""Is a refusal one direction of the stream? Taken out, and put in, beside random directions (arXiv 2406.11717).

The direction is the mean of unsafe prompts less that of safe ones, where the answer begins, after one layer. Taken out,
it is removed from the stream before and after every block, at every place; put in, it is added after its layer. The
layer is chosen on the validation split, for each of both by its own effect, and what is reported is of the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import Writes, difference_in_means, put_in, random_direction, taken_out
from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.safety.answers import read_answers
from ftmech_hf.studies.safety.clusters import asked_prompts, prompt_states
from ftmech_hf.tasks import Rows, RowStream, SafetyConfig
from ftmech_hf.training.loop import Progress

DRAWS = 3
"""Random directions beside the real one."""


@dataclass(frozen=True, kw_only=True)
class DirectionConfig(JobConfig):
    """Which model is looked into."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    eval_rows: int = field(default=256, metadata={"help": "prompts of each mixture, and as many to fit and choose on"})
    output_dir: str = field(default="runs/direction", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "eval_rows")


def refusal_directions(safe: Sequence[Tensor], unsafe: Sequence[Tensor]) -> list[Tensor]:
    """After every layer but the last: the mean of unsafe prompts less that of safe ones, (D,).

    Args:
        safe, unsafe: of :func:`~ftmech_hf.studies.safety.clusters.prompt_states`.
    """
    return [difference_in_means(there, here) for here, there in zip(safe, unsafe, strict=True)]


def measure_direction(config: DirectionConfig, task: SafetyConfig, *, progress: Progress | None = None) -> RunDir:
    """What a model answers without its refusal direction, and with it on safe prompts; beside random directions."""
    with job("safety_direction", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        model = load_model(config.model)

        def rows_of(mixture: str, answers: str, split: str) -> Rows:
            stream = RowStream(task.asking(mixture, answers), seed=config.seed, split=split)
            rows = stream.rows(0, config.eval_rows)
            return rows if mixture != "safe" or answers == "instructed" or rows.rejected is None else rows.rejected

        def shares(writes: Writes, split: str) -> dict[str, float]:
            """What is answered as instructed, and refused, of safe and of unsafe prompts."""
            with intervene(model, writes):
                return {
                    f"{mixture} {name}": float(read_answers(model, asked[split, mixture, name]).right.all(1).mean())
                    for mixture in ("safe", "unsafe")
                    for name in ("instructed", "refused")
                }

        asked = {
            (split, mixture, answers): rows_of(mixture, answers, split)
            for split in ("validation", "test")
            for mixture in ("safe", "unsafe")
            for answers in ("instructed", "refused")
        }
        fitted = (asked_prompts(rows_of(kind, "instructed", "probe")) for kind in ("safe", "unsafe"))
        found = refusal_directions(*(prompt_states(model, prompts) for prompts in fitted))
        tried = [
            (shares(taken_out(model, each), "validation"), shares(put_in(model, each, layer), "validation"))
            for layer, each in enumerate(found)
        ]
        out = min(range(len(found)), key=lambda layer: tried[layer][0]["unsafe refused"])
        into = max(range(len(found)), key=lambda layer: tried[layer][1]["safe refused"])
        table: list[dict[str, Any]] = []

        def add(what: str, direction: str, writes: Writes) -> None:
            table.extend(
                {"what": what, "direction": direction, "prompts": key.split()[0], "answer": key.split()[1],
                 "value": value, "rows": config.eval_rows}
                for key, value in shares(writes, "test").items()
            )  # fmt: skip

        add("nothing", "none", {})
        add("taken out", "refusal", taken_out(model, found[out]))
        add("put in", "refusal", put_in(model, found[into], into))
        generator = torch.Generator().manual_seed(config.seed)
        for number in range(DRAWS):
            drawn = random_direction(found[into], generator)
            add("taken out", f"random {number}", taken_out(model, drawn))
            add("put in", f"random {number}", put_in(model, drawn, into))
            if progress is not None:
                progress(number + 1, DRAWS, "random directions")
        return finish_job(run, table, {"layer_out": out, "layer_in": into})
