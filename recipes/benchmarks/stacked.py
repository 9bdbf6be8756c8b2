"""Several models of one shape trained at once, beside the same one after the other and beside a bare loop.

Rows, the schedule, clipping and the optimizer are part of what is timed; compiling is over before the clock runs, and
is told apart. On a GPU a rate is that of a block of steps with one wait at its end.

python recipes/benchmark.py stacked --scale paper --preset paper --batch_size 96 --steps 400    # on a GPU
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ftmech_hf.jobs.stacked import ROW_WORKERS
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.training.launch import compute_device, native_precision
from ftmech_hf.training.objectives import AnswerOnly, NextToken, Objective
from ftmech_hf.training.rows_ahead import RowsAhead
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.stack import Stack
from recipes.benchmarks import train
from recipes.benchmarks.limits import device_name, wait
from recipes.benchmarks.settings import JSON, SeedConfig

WARMUP_STEPS = 5
PRIORS = ("low", "medium", "high")
CORRELATIONS = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(SeedConfig):
    """How many models, and how long."""

    preset: str = field(default="nano", metadata={"help": "size of the models"})
    batch_size: int = field(default=64, metadata={"help": "rows of a step of each model"})
    pretrained: int = field(default=3, metadata={"help": "base models that are trained at once, of three priors"})
    tuned: int = field(default=18, metadata={"help": "fine-tunings that are trained at once, on two streams of rows"})
    steps: int = field(default=25, metadata={"help": "steps that are timed, after five to warm up"})
    json: str = field(default="runs/benchmark-stacked.json", metadata=JSON)

    def __post_init__(self) -> None:
        super().__post_init__()
        find_preset(self.preset)
        for name in ("batch_size", "pretrained", "tuned", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}, expected at least 1")


def _milliseconds(
    config: BenchmarkConfig, task: PcfgConfig, models: int, objective: Objective, streams: Sequence[RowStream]
) -> tuple[float, float]:
    """Milliseconds of a step of all models, and seconds until the first is done."""
    device = compute_device()
    on_gpu = device.type == "cuda"
    steps = config.steps + WARMUP_STEPS
    settings = TrainConfig(steps=steps, batch_size=config.batch_size, optimizer="adamw", lr=1e-3)
    shape = find_preset(config.preset)
    started = time.perf_counter()
    stack = Stack(
        [build_model(shape, len(task.vocabulary), seed=config.seed + number) for number in range(models)],
        [settings] * models, objective, [model % len(streams) for model in range(models)],
        device=device, precision=native_precision(device), compiled=on_gpu,
    )  # fmt: skip
    rows = RowsAhead(streams, config.batch_size, workers=ROW_WORKERS if on_gpu else 0, pin=on_gpu)
    begun = first = 0.0
    for step, token_ids in enumerate(rows.steps(0, steps)):
        stack.step(step, token_ids)
        if step == 0:
            wait()
            first = time.perf_counter() - started
        if step + 1 == WARMUP_STEPS:
            wait()
            begun = time.perf_counter()
        if step + 1 == steps:
            wait()
            return (time.perf_counter() - begun) / config.steps * 1e3, first
    raise AssertionError


def _bare(config: BenchmarkConfig, task: PcfgConfig, *, answers_alone: bool) -> float:
    """Milliseconds of a step of one model in the bare loop of the benchmark ``train``, on all tokens or on answers."""
    words = {
        "preset": config.preset,
        "batch_size": config.batch_size,
        "steps": config.steps,
        "rounds": 1,
        "seed": config.seed,
    }
    precision = native_precision(compute_device())
    alone = train.BenchmarkConfig(**words)  # type: ignore[arg-type]
    return train.step_seconds(partial(train.bare_loop, answers_alone=answers_alone), task, alone, precision) * 1e3


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """One row per stack."""
    bare = {answers: _bare(config, task, answers_alone=answers) for answers in (False, True)}
    base = [
        RowStream(dataclasses.replace(task, operand_prior=[each]), seed=config.seed, split="train") for each in PRIORS
    ]
    tuned = dataclasses.replace(task, operators=["count"], operand_prior=["b"])
    tuning = [
        RowStream(dataclasses.replace(tuned, correlation=each), seed=config.seed, split="finetune")
        for each in CORRELATIONS
    ]
    stacks: list[tuple[str, int, Objective, list[RowStream]]] = [
        ("a base model", 1, NextToken(), base[:1]),
        ("base models", config.pretrained, NextToken(), base[: config.pretrained]),
        ("fine-tunings", config.tuned, AnswerOnly(), tuning),
    ]
    for what, models, objective, streams in stacks:
        milliseconds, first = _milliseconds(config, task, models, objective, streams)
        beside = bare[isinstance(objective, AnswerOnly)]
        yield {
            "what": what,
            "models": models,
            "milliseconds_a_step": round(milliseconds, 2),
            "milliseconds_a_model": round(milliseconds / models, 3),
            "faster_than_bare": round(beside / (milliseconds / models), 2),
            "bare_milliseconds": round(beside, 2),
            "seconds_to_first_step": round(first, 1),
            "device": device_name(),
        }
