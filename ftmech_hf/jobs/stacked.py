"""Train several small models of one shape at once, in one process.

A small model leaves most of a device idle: a step of it costs less than the calls it is made of, and a grid of
learning rates, correlations and seeds needs a hundred of them. Here the weights of several runs lie behind one another
in one tensor and every operation works on all of them (:class:`ftmech_hf.training.stack.Stack`). Each run keeps its own
data, rate, clipping, checkpoints, folder, name and metrics: it is the run that :func:`ftmech_hf.jobs.training.pretrain`
or :func:`~ftmech_hf.jobs.training.finetune` would have made, up to rounding, and is found again as that.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ftmech_hf.jobs.stacked_run import StackedRun, check_together
from ftmech_hf.jobs.trained_model import note_floors, save_finished, save_snapshot
from ftmech_hf.jobs.workers import spare_cores
from ftmech_hf.models.tokenization import task_tokenizer
from ftmech_hf.runs import CHECKPOINTS, RunDir, cpu_seconds, damaged_files, noted, read_metrics
from ftmech_hf.statistics.crossing import count_right
from ftmech_hf.tasks import RowStream
from ftmech_hf.training.checkpoint import find_checkpoints, load_checkpoint, remove_later, save_checkpoint
from ftmech_hf.training.divergence import loss_limit
from ftmech_hf.training.launch import compute_device, native_precision, noted_environment
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.rows_ahead import RowsAhead
from ftmech_hf.training.stack import Stack

EVAL_BATCH = 256

ROW_WORKERS = 8
"""Processes that make rows for a GPU, at most; one of them makes some ten thousand a second."""

COMPILED_STEPS = 500
"""Steps from which it pays to compile one, which takes a GPU as long as a few hundred."""


def train_together(runs: Sequence[StackedRun], *, progress: Progress | None = None) -> list[RunDir]:
    """Make several runs at once; finished ones are left out, interrupted ones go on.

    Args:
        runs: of models of one shape, that differ in model, task, ``lr`` and ``seed`` only.
        progress: called after every step.

    Returns:
        the runs, finished, in the order given.

    Raises:
        ValueError: two of them differ in something else, or a setting is not supported; names it.
    """
    check_together(runs)
    opened: list[tuple[StackedRun, RunDir]] = []
    try:
        opened.extend((run, run.open()) for run in runs)
        waiting = [(run, folder) for run, folder in opened if not folder.finished]
        for start, members in _by_start(waiting):
            _Together(members).train(start, progress)
    finally:
        for _, folder in opened:
            folder.close()
    return [folder for _, folder in opened]


Opened = tuple[StackedRun, RunDir]


def _by_start(runs: Sequence[Opened]) -> Iterator[tuple[int, list[Opened]]]:
    """The runs that can go on from one step, and that step: all of them, unless some were trained without others."""
    steps = [{int(path.name.removeprefix("step-")) for path in _kept(folder)} | {0} for _, folder in runs]
    if not runs:
        return
    newest = [max(each) for each in steps]
    common = max(set.intersection(*steps))
    if common or not any(newest):
        yield common, list(runs)
        return
    for step in sorted(set(newest)):
        yield step, [run for run, each in zip(runs, newest, strict=True) if each == step]


def _kept(folder: RunDir) -> list[Path]:
    """The checkpoints of a run that are whole."""
    return [path for path in find_checkpoints(folder.working / CHECKPOINTS) if not damaged_files(path)]


class _Together:
    """Runs that are trained at once, from the same step on."""

    def __init__(self, runs: Sequence[Opened]) -> None:
        self.runs = runs
        self.config = runs[0][0].train
        self.computed = cpu_seconds()
        device = compute_device()
        self.streams = _shared_streams([run for run, _ in runs])
        self.precision = self._find_precision(device)
        self.stack = Stack(
            [run.build() for run, _ in runs],
            [run.train for run, _ in runs],
            runs[0][0].minimised,
            self.streams.of_run,
            device=device,
            precision=self.precision,
            compiled=self.config.compile == "on" or self._pays_to_compile(device),
        )
        self.tests: dict[str, list[RowStream]] = {
            name: [RowStream(run.task.test_tasks()[name], seed=run.train.seed, split="test") for run, _ in runs]
            for name in runs[0][0].task.test_tasks()
        }
        workers = min(ROW_WORKERS, spare_cores()) if device.type == "cuda" else 0
        on_gpu = device.type == "cuda"
        self.rows = RowsAhead(self.streams.streams, self.config.batch_size, workers=workers, pin=on_gpu)

    def _pays_to_compile(self, device: torch.device) -> bool:
        return self.config.compile == "auto" and device.type == "cuda" and self.config.steps >= COMPILED_STEPS

    def _find_precision(self, device: torch.device) -> str:
        """What ``auto`` is: that of the runs if they go on, else what the device has."""
        if self.config.mixed_precision != "auto":
            return self.config.mixed_precision
        begun = {each for _, folder in self.runs if (each := noted(folder.working, "mixed_precision"))}
        if len(begun) > 1:
            raise ValueError(f"mixed_precision: {' and '.join(sorted(begun))} in runs that are trained together")
        return begun.pop() if begun else native_precision(device)

    def train(self, start: int, progress: Progress | None) -> None:
        config, started = self.config, time.monotonic()
        if start:
            self._load_checkpoints(start)
        for _, folder in self.runs:
            # One that had got farther must not go on from there alone: its log is cut here.
            remove_later(folder.working / CHECKPOINTS, start)
            folder.truncate_log(start if start else -1)
        self._note(mixed_precision=self.precision, processes=1, variables=noted_environment())
        eval_steps = config.eval_steps()
        if start == 0 and 0 in eval_steps:
            self._evaluate(0, None)
        losses = None
        for step, token_ids in enumerate(self.rows.steps(start, config.steps), start=start):
            losses = self.stack.step(step, token_ids)
            done = step + 1
            if step == start:
                self._began(step, losses, started)
            if done in eval_steps:
                self._evaluate(done, losses.tolist())
            if done in config.snapshots:
                self._save_snapshots(done)
            if done % config.checkpoint_every == 0 or done == config.steps:
                self._save_checkpoints(done)
            if progress is not None:
                progress(done, config.steps, "")
        self._save(time.monotonic() - started, None if losses is None else losses.tolist())

    def _began(self, step: int, losses: torch.Tensor, started: float) -> None:
        """After the first step of this process."""
        self.stack.wait()
        self._note(seconds_to_first_step=round(time.monotonic() - started, 1))
        if step == 0:
            for (_, folder), loss in zip(self.runs, losses.tolist(), strict=True):
                folder.note(first_loss=loss if math.isfinite(loss) else None)

    def _note(self, **facts: Any) -> None:
        for _, folder in self.runs:
            folder.note(**facts)

    def _save_checkpoints(self, done: int) -> None:
        """Each run's own, of the form that it has alone, so that it goes on alone, too, or with others."""
        for number, (_, folder) in enumerate(self.runs):
            model, optimizers = self.stack.one(number)
            # One of many rates may be too large; that run says so at its end, and the others are worth keeping.
            save_checkpoint(
                folder.working / CHECKPOINTS, done, model, optimizers if done < self.config.steps else [],
                check_finite=False,
            )  # fmt: skip

    def _load_checkpoints(self, step: int) -> None:
        for number, (_, folder) in enumerate(self.runs):
            model, optimizers = self.stack.template, self.stack.optimizers_alone(number)
            load_checkpoint(folder.working / CHECKPOINTS, model, optimizers, at=step)
            self.stack.replace(number, optimizers)

    def _save_snapshots(self, done: int) -> None:
        for number, (run, folder) in enumerate(self.runs):
            save_snapshot(folder, done, self.stack.one(number)[0], task_tokenizer(run.task))

    @torch.no_grad()
    def _evaluate(self, step: int, losses: Sequence[float] | None) -> None:
        sizes = self.config.eval_sizes(step)
        lines: list[dict[str, Any]] = [{"step": step, "eval_rows": sizes[0]} for _ in self.runs]
        for line, loss in zip(lines, losses or [], strict=bool(losses)):
            line["loss"] = loss
        for name, streams in self.tests.items():
            counts = functools.cache(functools.partial(self._count_right, streams))  # of all runs, if one of them asks
            for run, line in enumerate(lines):
                right, number = count_right(
                    lambda at, run=run, counts=counts: counts(at.start, at.stop)[run],  # type: ignore[misc]
                    sizes,
                    self.config.eval_near,
                )
                line[f"accuracy/{name}"] = right / number
                if number > sizes[0]:
                    line[f"eval_rows/{name}"] = number
        for (_, folder), line in zip(self.runs, lines, strict=True):
            folder.log(line)

    def _count_right(self, streams: Sequence[RowStream], start: int, stop: int) -> list[int]:
        """How many of some rows of its own test set each run answers right."""
        made: dict[str, torch.Tensor] = {}  # streams of one task and seed have the same rows
        for stream in streams:
            key = repr((stream.task, stream.seed))
            if key not in made:
                made[key] = torch.from_numpy(stream.rows(start, stop).token_ids)
        token_ids = torch.stack([made[repr((stream.task, stream.seed))] for stream in streams])
        right = torch.zeros(len(self.runs), dtype=torch.long, device=self.stack.device)
        for rows in token_ids.split(EVAL_BATCH, dim=1):
            rows = rows.to(self.stack.device)
            right += (self.stack.answers(rows) == rows[..., -2]).sum(1)
        counts: list[int] = right.tolist()
        return counts

    def _save(self, seconds: float, losses: Sequence[float] | None) -> None:
        share, computed = seconds / len(self.runs), (cpu_seconds() - self.computed) / len(self.runs)
        for number, (run, folder) in enumerate(self.runs):
            model, _ = self.stack.one(number)
            diverged = not all(bool(torch.isfinite(p).all()) for p in model.parameters())
            # of a process that was killed before it could save, the loss stands in the last line of the log
            loss = read_metrics(folder.working)[-1].get("loss") if losses is None else losses[number]
            if loss is not None:  # alone it would have been refused
                limit = loss_limit(len(run.task.vocabulary), noted(folder.working, "first_loss"))
                diverged |= not loss <= limit
            folder.note(trained_together=len(self.runs), diverged=diverged)
            note_floors(folder, {name: streams[number] for name, streams in self.tests.items()})
            save_finished(folder, model, run.task, run.train, share)
            folder.finish(computed=computed)


class _Streams(NamedTuple):
    streams: list[RowStream]
    of_run: list[int]


def _shared_streams(runs: Sequence[StackedRun]) -> _Streams:
    """One stream of training rows for all runs that train on the same rows."""
    keys = [repr((run.task, run.train.seed, run.split)) for run in runs]
    order = list(dict.fromkeys(keys))
    first = [runs[keys.index(key)] for key in order]
    streams = [RowStream(run.task, seed=run.train.seed, split=run.split) for run in first]
    return _Streams(streams, [order.index(key) for key in keys])
