"""Fine-tune many copies of one small model at once, in one process.

A compiled program has 40,000 weights: a step of it costs less than the calls it is made of, and a grid of learning
rates, correlations and seeds needs a hundred of them. Here the weights of several runs lie behind one another in one
tensor and every operation works on all of them (``torch.func.vmap``). Each run keeps its own data, rate, clipping,
folder, name and metrics: it is the run that :func:`ftmech_hf.jobs.training.finetune` would have made, up to rounding,
and is found again as that.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.trained_model import note_floors, save_finished
from ftmech_hf.jobs.training import FinetuneConfig
from ftmech_hf.models.identity import model_hash
from ftmech_hf.models.loading import check_vocabulary, load_model
from ftmech_hf.runs import CHECKPOINTS, RunDir, write_json
from ftmech_hf.statistics.crossing import count_right
from ftmech_hf.tasks import RowStream, Task
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.checkpoint import find_checkpoints, load_checkpoint, save_checkpoint
from ftmech_hf.training.launch import compute_device, noted_environment
from ftmech_hf.training.loop import Progress
from ftmech_hf.training.optim import SGD_MOMENTUM, lr_factor
from ftmech_hf.training.settings import TrainConfig

EVAL_BATCH = 128

MEMBERS = "runs.json"
"""Beside checkpoints of several runs: their hashes, in the order in which their weights lie."""

_SUPPORTED = {
    "optimizer": "sgd", "objective": "answer_only", "mixed_precision": "no", "gradient_accumulation_steps": 1,
    "l2sp": 0.0, "ldifs": 0.0, "lfl": 0.0, "lwf": 0.0, "ewc": 0.0, "olora": 0.0, "replay_share": 0.0, "average": 0.0,
    "keep_rows": 0, "keep_fisher": 0, "max_steps": None, "snapshots": [], "log_with": "none",
}  # fmt: skip
"""What runs that are trained together can have; others go through the ordinary loop."""


class StackedRun(NamedTuple):
    """One of the runs, as :func:`ftmech_hf.jobs.training.finetune` takes it."""

    config: FinetuneConfig
    task: Task
    train: TrainConfig


def finetune_together(runs: Sequence[StackedRun], *, progress: Progress | None = None) -> list[RunDir]:
    """Make several fine-tuning runs at once; finished ones are left out, interrupted ones go on together.

    Args:
        runs: of models of one shape, that differ in model, task, ``lr`` and ``seed`` only.
        progress: called after every step.

    Returns:
        the runs, finished, in the order given.

    Raises:
        ValueError: two of them differ in something else, or a setting is not supported; names it.
    """
    _check(runs)
    opened: list[tuple[StackedRun, RunDir]] = []
    try:
        opened.extend((run, _open(run)) for run in runs)
        if waiting := [(run, folder) for run, folder in opened if not folder.finished]:
            _Stack(waiting).train(progress)
    finally:
        for _, folder in opened:
            folder.close()
    return [folder for _, folder in opened]


def _check(runs: Sequence[StackedRun]) -> None:
    first = runs[0].train
    for name, supported in _SUPPORTED.items():
        if getattr(first, name) != supported:
            raise ValueError(f"{name}: {getattr(first, name)}, expected {supported} for runs that are trained together")
    for run in runs:
        for field in dataclasses.fields(TrainConfig):
            if field.name not in ("lr", "seed") and getattr(run.train, field.name) != getattr(first, field.name):
                raise ValueError(
                    f"{field.name}: {getattr(run.train, field.name)} in one of the runs that are trained together, "
                    f"{getattr(first, field.name)} in another"
                )


def _open(run: StackedRun) -> RunDir:
    settings = to_dict(run.config, run.task, run.train, AdapterConfig())
    check_vocabulary(run.config.start, run.task.vocabulary)
    inputs = {"model": model_hash(run.config.start)}
    return RunDir.open(run.config.output_dir, run.config.kind, settings, inputs=inputs, fresh=run.config.fresh)


class _Stack:
    """The weights of all runs, one behind another, and what each of them needs."""

    def __init__(self, runs: Sequence[tuple[StackedRun, RunDir]]) -> None:
        self.runs = runs
        self.config = runs[0][0].train
        device = compute_device()
        models = [load_model(run.config.start) for run, _ in runs]
        self.shape = models[0].to(device)  # type: ignore[arg-type]
        parameters = [dict(model.named_parameters()) for model in models]
        if any(_shapes(each) != _shapes(parameters[0]) for each in parameters):
            raise ValueError("model: runs that are trained together start from models of one shape")
        self.names = list(parameters[0])
        stacked = {name: torch.stack([each[name].detach().to(device) for each in parameters]) for name in self.names}
        self.weights = nn.ParameterDict({_key(name): nn.Parameter(value) for name, value in stacked.items()})
        # A run's rate is in its gradient, so that one optimizer serves all: momentum and step are linear in it.
        self.optimizer = torch.optim.SGD(self.weights.parameters(), lr=1.0, momentum=SGD_MOMENTUM)
        self.rates = torch.tensor([run.train.lr for run, _ in runs], device=device)
        self.device = device
        self.streams = _shared_streams([run for run, _ in runs])
        self.tests: dict[str, list[RowStream]] = {
            name: [
                RowStream(run.task.test_tasks()[name], seed=run.train.seed, split="test") for run, _ in runs
            ]
            for name in runs[0][0].task.test_tasks()
        }  # fmt: skip
        self._logits = vmap(self._one_logits)
        self._loss = vmap(self._one_loss)
        self.members = [folder.hash for _, folder in runs]
        together = hashlib.sha256(" ".join(self.members).encode()).hexdigest()[:12]
        self.checkpoints = runs[0][1].working / CHECKPOINTS / together

    def _one_logits(self, weights: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
        output = functional_call(self.shape, dict(weights), (token_ids[:, :-2],), {"logits_to_keep": 1})
        logits: Tensor = output.logits[:, -1]
        return logits

    def _one_loss(self, weights: Mapping[str, Tensor], token_ids: Tensor) -> Tensor:
        return F.cross_entropy(self._one_logits(weights, token_ids), token_ids[:, -2])

    def _named(self) -> dict[str, Tensor]:
        return {name: self.weights[_key(name)] for name in self.names}

    def train(self, progress: Progress | None) -> None:
        config, started = self.config, time.monotonic()
        start = self._load_checkpoint()
        for _, folder in self.runs:
            folder.truncate_log(start if start else -1)
        eval_steps = config.eval_steps()
        if start == 0:
            self._evaluate(0, None)
        for step in range(start, config.steps):
            losses = self._step(step)
            done = step + 1
            if done in eval_steps:
                self._evaluate(done, losses)
            if done % config.checkpoint_every == 0 or done == config.steps:
                self._save_checkpoint(done)
            if progress is not None:
                progress(done, config.steps, "")
        self._save(time.monotonic() - started)

    def _save_checkpoint(self, done: int) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(self.checkpoints / MEMBERS, self.members)
        optimizers = [self.optimizer] if done < self.config.steps else []
        # One of many rates may be too large; that run says so at its end, and the others are worth keeping.
        save_checkpoint(self.checkpoints, done, self.weights, optimizers, check_finite=False)

    def _load_checkpoint(self) -> int:
        """Go on from the newest checkpoint of a stack that these runs are part of: others of it may be finished."""
        found: list[tuple[str, Path, list[str]]] = []
        for _, folder in self.runs:
            for listed in (folder.working / CHECKPOINTS).glob(f"*/{MEMBERS}"):
                members, kept = json.loads(listed.read_text(encoding="utf-8")), find_checkpoints(listed.parent)
                if kept and set(self.members) <= set(members):
                    found.append((kept[-1].name, listed.parent, members))
        if not found:
            return 0
        _, root, members = max(found)
        rows = [members.index(each) for each in self.members]
        return load_checkpoint(root, self.weights, [self.optimizer], rows=rows)

    def _step(self, step: int) -> Tensor:
        config = self.config
        rows = slice(step * config.batch_size, (step + 1) * config.batch_size)
        made = {key: stream.rows(rows.start, rows.stop).token_ids for key, stream in self.streams.streams.items()}
        token_ids = torch.stack([torch.from_numpy(made[key]) for key in self.streams.of_run]).to(self.device)
        self.optimizer.zero_grad()
        losses = self._loss(self._named(), token_ids)
        losses.sum().backward()
        self._scale_gradients()
        factor = lr_factor(
            step, steps=config.steps, warmup_fraction=config.warmup_fraction, final_lr_fraction=config.final_lr_fraction
        )
        for group in self.optimizer.param_groups:
            group["lr"] = factor
        self.optimizer.step()
        return losses.detach()

    @torch.no_grad()
    def _scale_gradients(self) -> None:
        """Clip each run's gradient by its own norm, add weight decay, multiply with its rate."""
        gradients = [p.grad for p in self.weights.parameters() if p.grad is not None]
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
        clip = (self.config.max_grad_norm / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for parameter in self.weights.parameters():
            assert parameter.grad is not None
            per_run = (-1, *[1] * (parameter.ndim - 1))
            parameter.grad.mul_(clip.view(per_run)).add_(parameter, alpha=self.config.weight_decay)
            parameter.grad.mul_(self.rates.view(per_run))

    @torch.no_grad()
    def _evaluate(self, step: int, losses: Tensor | None) -> None:
        sizes = self.config.eval_sizes(step)
        lines: list[dict[str, Any]] = [{"step": step, "eval_rows": sizes[0]} for _ in self.runs]
        if losses is not None:
            for line, loss in zip(lines, losses.tolist(), strict=True):
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
        token_ids = torch.stack([torch.from_numpy(stream.rows(start, stop).token_ids) for stream in streams])
        right = torch.zeros(len(self.runs), dtype=torch.long, device=self.device)
        for rows in token_ids.to(self.device).split(EVAL_BATCH, dim=1):
            right += (self._logits(self._named(), rows).argmax(-1) == rows[..., -2]).sum(1)
        counts: list[int] = right.tolist()
        return counts

    def _save(self, seconds: float) -> None:
        share = seconds / len(self.runs)
        for number in reversed(range(len(self.runs))):  # the first has the checkpoints, and goes last
            run, folder = self.runs[number]
            model: PreTrainedModel = load_model(run.config.start)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(self.weights[_key(name)][number])
            finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
            folder.note(
                trained_together=len(self.runs),
                diverged=not finite,
                mixed_precision=self.config.mixed_precision,
                variables=noted_environment(),
            )
            note_floors(folder, {name: streams[number] for name, streams in self.tests.items()})
            save_finished(folder, model, run.task, run.train, share)
            folder.finish()


class _Streams(NamedTuple):
    streams: dict[str, RowStream]
    of_run: list[str]


def _shared_streams(runs: Sequence[StackedRun]) -> _Streams:
    """One stream of training rows for all runs that train on the same rows."""
    keys = [repr((run.task, run.train.seed, run.config.split)) for run in runs]
    streams = {
        key: RowStream(run.task, seed=run.train.seed, split=run.config.split)
        for key, run in zip(keys, runs, strict=True)
    }
    return _Streams(streams, keys)


def _shapes(parameters: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in parameters.items()}


def _key(name: str) -> str:
    return name.replace(".", "/")  # a name in a ParameterDict has no dots
