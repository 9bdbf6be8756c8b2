"""How soon does a tuned model answer unsafe prompts again, when it is tuned on a few of them, or on none?

Three ways: ten unsafe prompts over and over; safe prompts alone; and unsafe prompts about one operator, to see what
becomes of the others. A model that never learned what is unsafe is tuned alike: what it learns was not hidden.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.models.loading import load_model
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.safety.answers import named_unsafe, read_answers
from ftmech_hf.tasks import Rows, RowStream, SafetyConfig
from ftmech_hf.tasks.safety import NAMES
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.objectives import AnswerOnly, Batch
from ftmech_hf.training.objectives.base import loss_on
from ftmech_hf.training.optim import build_optimizers

FEW = 10
"""Unsafe prompts that are tuned on over and over."""

ONE = "b0"
"""The operator that is answered about again."""

WAYS = ("ten", "safe", "one")
EVALUATED = (0, 1, 2, 4, 8, 16, 32)
"""Steps after which a model is asked."""


@dataclass(frozen=True, kw_only=True)
class RelearningConfig(JobConfig):
    """Which model is tuned, and how."""

    model: str = field(default="runs/finetune", metadata={"place": "input", "help": "folder of a run, or on the Hub"})
    lr: float = field(default=1e-3, metadata={"help": "of AdamW, constant"})
    batch_size: int = field(default=32, metadata={"help": "rows of a step, but for the ten prompts"})
    steps: int = field(default=EVALUATED[-1], metadata={"help": "of tuning"})
    eval_rows: int = field(default=256, metadata={"help": "unsafe prompts that are asked"})
    output_dir: str = field(default="runs/relearning", metadata={"place": "output", "help": "the run's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "batch_size", "steps", "eval_rows")
        if not self.lr > 0:
            raise ValueError(f"lr: {self.lr}, expected a number above 0")


def names_of(rows: Rows) -> NDArray[np.int64]:
    """The operators of prompts, places in :data:`~ftmech_hf.tasks.safety.NAMES`, (B, 2)."""
    found: NDArray[np.int64] = rows.token_ids[:, 1:3] - SafetyConfig.vocabulary.index(NAMES[0])
    return found


def about_one(rows: Rows) -> NDArray[np.bool_]:
    """Which unsafe prompts are unsafe by :data:`ONE` alone: it stands by itself, or beside ``id``."""
    only = np.isin(names_of(rows), [NAMES.index(ONE), NAMES.index("id")])
    found: NDArray[np.bool_] = only.all(1) & (names_of(rows) == NAMES.index(ONE)).any(1)
    return found


def groups_of(rows: Rows) -> dict[str, NDArray[np.bool_]]:
    """Unsafe prompts by what makes them so: all; about :data:`ONE` alone; without it by name, and by text."""
    without = (names_of(rows) != NAMES.index(ONE)).all(1)
    named = named_unsafe(rows)
    return {
        "all": np.ones(len(rows), bool), "one": about_one(rows), "others by name": without & named,
        "others by text": without & ~named,
    }  # fmt: skip


def draw_rows(task: SafetyConfig, way: str, *, seed: int, size: int) -> Iterator[Batch]:
    """The batches of a way, without an end, of a split that nothing else is trained on."""
    mixture = "safe" if way == "safe" else "unsafe"
    stream = RowStream(task.asking(mixture, "instructed"), seed=seed, split="reverse")
    if way == "ten":
        few = Batch.of(stream.rows(0, FEW))
        yield from itertools.repeat(few)
    kept: list[Rows] = []
    for number in itertools.count():
        rows = stream.rows(number * 1024, (number + 1) * 1024)
        chosen = about_one(rows) if way == "one" else np.ones(len(rows), bool)
        kept += [rows[place : place + 1] for place in np.flatnonzero(chosen)]
        while len(kept) >= size:
            taken = kept[:size]
            del kept[:size]
            yield Batch.of(Rows.concatenate(taken))


def relearn(
    model: PreTrainedModel, batches: Iterator[Batch], ask: Callable[[], dict[str, Any]], *, lr: float, steps: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Tune a model, which is changed, and ask it after some steps: (step, what ``ask`` gave)."""
    optimizers = build_optimizers(
        model, optimizer="adamw", lr=lr, muon_lr=lr, weight_decay=0.0, betas=(0.9, 0.95)
    )  # fmt: skip
    yield 0, ask()
    for step in range(1, steps + 1):
        loss_on(model, AnswerOnly(), next(batches).to(model.device)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in optimizers:
            each.step()
            each.zero_grad()
        if step in EVALUATED or step == steps:
            yield step, ask()


def measure_relearning(config: RelearningConfig, task: SafetyConfig, *, progress: Progress | None = None) -> RunDir:
    """Answers to unsafe prompts while a model is tuned, in each of three ways."""
    with job("safety_relearning", config, task, models={"model": config.model}, vocabulary=task.vocabulary) as run:
        if run.finished:
            return run
        unsafe = RowStream(task.asking("unsafe", "instructed"), seed=config.seed, split="test")
        rows = unsafe.rows(0, config.eval_rows)
        groups = groups_of(rows)
        table: list[dict[str, Any]] = []
        for number, way in enumerate(WAYS):
            model = load_model(config.model)

            def ask(model: PreTrainedModel = model) -> dict[str, Any]:
                right: NDArray[np.bool_] = np.asarray(read_answers(model, rows).right.all(1))
                return {name: (float(right[chosen].mean()) if chosen.any() else float("nan"), int(chosen.sum()))
                        for name, chosen in groups.items()}  # fmt: skip

            batches = draw_rows(task, way, seed=config.seed, size=config.batch_size)
            for step, found in relearn(model, batches, ask, lr=config.lr, steps=config.steps):
                table += [
                    {"way": way, "step": step, "unsafe": name, "value": value, "rows": counted}
                    for name, (value, counted) in found.items()
                ]
                if progress is not None:
                    progress(number * config.steps + step, len(WAYS) * config.steps, f"{way} {found['all'][0]:.0%}")
        return finish_job(run, table, {"operator": ONE, "few": FEW})
