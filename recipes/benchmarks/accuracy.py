"""How long until a model counts: our default recipe beside plain AdamW, same model, rows, batch and number of steps.

One run of each, so a difference of a few per cent means nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.runs import RunDir
from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, for_capability
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.objectives import answer_accuracy
from ftmech_hf.training.settings import Precision, TrainConfig


class Recipe(NamedTuple):
    """What the contenders differ in."""

    optimizer: Literal["muon", "adamw"]
    precision: Precision
    warmup_fraction: float


RECIPES: dict[str, Recipe] = {
    "ours: Muon, 2 % warm-up": Recipe("muon", "auto", 0.02),
    "AdamW, 2 % warm-up": Recipe("adamw", "auto", 0.02),
    "AdamW, fp32, the paper's 20 %": Recipe("adamw", "no", 0.2),
}
"""``auto`` is bf16 where the hardware has it."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Which accuracy counts as learned, and for how long to try."""

    accuracy: float = field(default=0.99, metadata={"help": "stop at this accuracy"})
    preset: str = field(default="nano", metadata={"help": "size of the model"})
    steps: int = field(default=1000, metadata={"help": "length of the schedule"})
    check_every: int = field(default=10, metadata={"help": "steps between looks, whose time does not count"})
    eval_rows: int = field(default=512, metadata={"help": "rows of a look"})
    seed: int = field(default=0, metadata={"help": "of weights and rows"})
    json: str = field(default="runs/benchmark-accuracy.json", metadata={"help": "where the numbers go"})

    def __post_init__(self) -> None:
        find_preset(self.preset)
        for name in ("accuracy", "steps", "check_every", "eval_rows"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)}, expected more than 0")


class _Reached(Exception):
    pass


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """One row per mixture and recipe: steps and seconds to the accuracy; the last look if it was never reached."""
    counting = for_capability(task, Capability("count", task.base_operand))
    for mixture, rows in (("counting alone", counting), ("all the task's questions", task)):
        found = {name: _train(config, rows, counting, recipe) for name, recipe in RECIPES.items()}
        ours = found[next(iter(RECIPES))][1]
        for name, (step, seconds, accuracy) in found.items():
            yield {
                "rows": mixture, "recipe": name, "steps": step, "seconds": round(seconds, 1),
                "accuracy": round(accuracy, 4), "reached": accuracy >= config.accuracy,
                "ours_is_faster_by": round(seconds / ours, 2),
            }  # fmt: skip


def _train(
    config: BenchmarkConfig,
    task: PcfgConfig,
    counting: PcfgConfig,
    recipe: Recipe,
) -> tuple[int, float, float]:
    """(steps, seconds of training, accuracy on counting)."""
    train = TrainConfig(
        steps=config.steps, optimizer=recipe.optimizer, mixed_precision=recipe.precision,
        warmup_fraction=recipe.warmup_fraction, num_evals=0, seed=config.seed, checkpoint_every=10**9,
    )  # fmt: skip
    model = build_model(find_preset(config.preset), len(task.vocabulary), seed=config.seed)
    rows = torch.from_numpy(RowStream(counting, seed=config.seed, split="test").rows(0, config.eval_rows).token_ids)
    started, seconds, last = time.perf_counter(), 0.0, (0, 0.0)

    def look(step: int, steps: int, text: str) -> None:
        nonlocal started, seconds, last
        if step % config.check_every and step < steps:
            return
        seconds += time.perf_counter() - started
        model.eval()
        last = step, answer_accuracy(model, rows)
        started = time.perf_counter()
        if last[1] >= config.accuracy:
            raise _Reached

    accelerator = start_accelerator(train)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.open(Path(folder) / "run", "benchmark", {})
        try:
            fit(model, RowStream(task, seed=config.seed, split="train"), {}, train, run, accelerator, look)
        except _Reached:
            pass
        finally:
            run.close()
    return last[0], seconds, last[1]
