"""How long until a model counts: the nano study's recipe beside plain AdamW, and what each of its changes does alone.

Every seed trains the same model on the same rows with every recipe. The number of steps varies much between seeds, so
ratios are geometric means over seeds with their interval.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ftmech_hf.config import check_seeds
from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.runs import RunDir
from ftmech_hf.statistics.intervals import geometric_mean_interval
from ftmech_hf.tasks import Capability, PcfgConfig, RowStream, for_capability
from ftmech_hf.training.evaluation import answer_accuracy
from ftmech_hf.training.launch import compute_device, native_precision
from ftmech_hf.training.loop import fit, start_accelerator
from ftmech_hf.training.objectives import NextToken
from ftmech_hf.training.settings import Precision, TrainConfig
from recipes.benchmarks.limits import precision_name, wait
from recipes.benchmarks.settings import JSON


class Recipe(NamedTuple):
    """What the contenders differ in."""

    optimizer: Literal["muon", "adamw"]
    precision: Precision
    warmup_fraction: float
    batch_size: int
    lr: float = 1e-3
    muon_lr: float = 0.02
    answer_weight: float = 1.0


STUDY = Recipe("muon", "auto", 0.02, 32, lr=2e-3, muon_lr=0.03, answer_weight=16.0)

RECIPES: dict[str, Recipe] = {
    "ours: Muon, 32 rows, answers weighted": STUDY,
    "the same, all tokens alike": STUDY._replace(answer_weight=1.0),
    "the same with 64 rows": STUDY._replace(answer_weight=1.0, batch_size=64),
    "AdamW, fp32, the paper's 20 % warm-up": Recipe("adamw", "no", 0.2, 64),
    "AdamW, fp32, 32 rows, 2 %, answers weighted": Recipe("adamw", "no", 0.02, 32, answer_weight=16.0),
    "AdamW, 16 rows, 2 %, answers weighted": Recipe("adamw", "auto", 0.02, 16, answer_weight=16.0),
}
"""``auto`` is bf16 where the hardware has it. The last two are there because what helps Muon helps AdamW, too: of eight
recipes tried on seeds 10 to 13 the last counts soonest, where nothing but counting is asked."""

UNIT = "AdamW, fp32, the paper's 20 % warm-up"
"""The recipe that the others are compared with."""

MIXTURES = ("counting", "all")
"""What is trained on: counting on the base's operand alone, or all questions of the task."""


class Trial(NamedTuple):
    """One training: the last step evaluated, seconds of training until then, and the accuracy there."""

    steps: int
    seconds: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Which accuracy counts as learned, and for how long to try."""

    accuracy: float = field(default=0.99, metadata={"help": "stop at this accuracy"})
    preset: str = field(default="nano", metadata={"help": "size of the model"})
    steps: int = field(default=1000, metadata={"help": "length of the schedule"})
    check_every: int = field(default=10, metadata={"help": "steps between evaluations, whose time does not count"})
    eval_rows: int = field(default=512, metadata={"help": "rows of an evaluation"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of weights and rows"})
    mixtures: list[str] = field(default_factory=lambda: [*MIXTURES], metadata={"help": "counting, all, or both"})
    json: str = field(default="runs/benchmark-accuracy.json", metadata=JSON)

    def __post_init__(self) -> None:
        find_preset(self.preset)
        for name in ("accuracy", "steps", "check_every", "eval_rows"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)}, expected more than 0")
        check_seeds(self.seeds)
        if not self.mixtures or not set(self.mixtures) <= set(MIXTURES):
            raise ValueError(f"mixtures: {self.mixtures}, expected some of {', '.join(MIXTURES)}")


class _Reached(Exception):
    pass


def measure(config: BenchmarkConfig, task: PcfgConfig) -> Iterator[dict[str, Any]]:
    """One row per mixture and recipe: steps and seconds to the accuracy of every seed, and how many reached it."""
    counting = for_capability(task, Capability("count", task.base_operand))
    rows = {"counting": counting, "all": task}
    for mixture in config.mixtures:
        trials: dict[str, list[Trial]] = {name: [] for name in RECIPES}
        for seed in config.seeds:
            for name, recipe in RECIPES.items():
                trials[name].append(_train(config, rows[mixture], counting, recipe, seed))
        for name, found in trials.items():
            yield {
                "rows": {"counting": "counting alone", "all": "all the task's questions"}[mixture],
                "recipe": name,
                "precision": _precision_of(RECIPES[name]),
                "steps": [each.steps for each in found],
                "seconds": [round(each.seconds, 1) for each in found],
                "accuracy": [round(each.accuracy, 4) for each in found],
                "reached": sum(each.accuracy >= config.accuracy for each in found),
                **_ratio(found, trials[UNIT]),
            }


def _precision_of(recipe: Recipe) -> str:
    precision = native_precision(compute_device()) if recipe.precision == "auto" else recipe.precision
    return precision_name(precision)


def _ratio(found: list[Trial], unit: list[Trial]) -> dict[str, float | None]:
    """How many times as long the unit takes: the geometric mean over seeds and, of several, its 95 % interval."""
    ratios = [other.seconds / each.seconds for each, other in zip(found, unit, strict=True)]
    if len(ratios) == 1:
        return {"faster_by": round(ratios[0], 2), "low": None, "high": None}
    value, low, high = (round(end, 2) for end in geometric_mean_interval(ratios))
    return {"faster_by": value, "low": low, "high": high}


def _train(
    config: BenchmarkConfig,
    task: PcfgConfig,
    counting: PcfgConfig,
    recipe: Recipe,
    seed: int,
) -> Trial:
    train = TrainConfig(
        steps=config.steps, optimizer=recipe.optimizer, mixed_precision=recipe.precision,
        batch_size=recipe.batch_size, warmup_fraction=recipe.warmup_fraction, num_evals=0, seed=seed,
        lr=recipe.lr, muon_lr=recipe.muon_lr, checkpoint_every=10**9,
    )  # fmt: skip
    model = build_model(find_preset(config.preset), len(task.vocabulary), seed=seed)
    rows = torch.from_numpy(RowStream(counting, seed=seed, split="test").rows(0, config.eval_rows).token_ids)
    started, seconds, last = time.perf_counter(), 0.0, Trial(0, 0.0, 0.0)

    def evaluate(step: int, steps: int, text: str) -> None:
        nonlocal started, seconds, last
        if step % config.check_every and step < steps:
            return
        wait()  # steps that a GPU has only been told of are not made yet
        seconds += time.perf_counter() - started
        model.eval()
        last = Trial(step, seconds, answer_accuracy(model, rows))
        started = time.perf_counter()
        if last.accuracy >= config.accuracy:
            raise _Reached

    accelerator = start_accelerator(train)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.open(Path(folder) / "run", "benchmark", {})
        try:
            fit(
                model,
                RowStream(task, seed=seed, split="train"),
                {},
                train,
                run,
                accelerator,
                evaluate,
                objective=NextToken(answer_weight=recipe.answer_weight),
            )
        except _Reached:
            pass
        finally:
            run.close()
    return last
