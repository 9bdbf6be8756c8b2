"""The one training loop: pretraining, fine-tuning and reversing differ only in what they hand to it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from ftmech_hf.runs import CHECKPOINTS, RunDir, noted
from ftmech_hf.tasks import RowStream
from ftmech_hf.training.checkpoint import NotFinite, find_checkpoints, load_checkpoint, save_checkpoint, whole_tensor
from ftmech_hf.training.cost_estimate import Clock, project
from ftmech_hf.training.launch import (
    check_environment,
    check_num_processes,
    compute_device,
    native_precision,
    noted_environment,
)
from ftmech_hf.training.memory import keep_freed_memory
from ftmech_hf.training.objectives import (
    OBJECTIVES,
    Anchor,
    answer_accuracy,
    documents_mean_loss,
    num_predicted,
    num_shown,
    training_loss,
)
from ftmech_hf.training.optim import build_optimizers, lr_factor, set_lr
from ftmech_hf.training.progress import make_bar
from ftmech_hf.training.settings import TrainConfig

LOSS_CHECK_EVERY = 50
"""Steps between looks at the loss, each of which waits for the device."""

DRY_RUN_ROWS = 64
"""Rows per test set at the end of a dry run, at most: enough to know what a row takes."""

DIVERGED = 3
"""A loss this many times that of a guess, or of the first step if that was worse, will not come back."""

MEASURES = {"accuracy": answer_accuracy, "loss": documents_mean_loss}
"""What is logged of every test set, by what a task is judged by: a share of answers, or nats per token."""

Progress = Callable[[int, int, str], None]
"""Called as ``progress(step, steps, text)`` after every optimizer step; ``text`` is short and may be empty."""


def start_accelerator(config: TrainConfig, folder: Path | None = None, *, precision: str | None = None) -> Accelerator:
    """A fresh accelerator, also in a process that has trained something else before.

    Here ``mixed_precision: auto`` becomes what the device that computes can do; the first process decides for all.

    Args:
        config: how to train.
        folder: where a tracker that writes files puts them.
        precision: what ``auto`` became when this run began, if it goes on; it stays that.

    Raises:
        ValueError: the batch cannot be shared by the processes, fewer processes were started than asked for, the
            environment asks for what is not supported, or the tracker is not installed.
    """
    check_environment(config.gradient_accumulation_steps)
    keep_freed_memory()
    AcceleratorState._reset_state()
    GradientState._reset_state()
    tracker = None if config.log_with == "none" else config.log_with
    if tracker and importlib.util.find_spec(tracker) is None:
        raise ValueError(f"log_with: {tracker} is not installed; pip install 'ftmech_hf[{tracker}]'")
    decided = [config.mixed_precision]
    if config.mixed_precision == "auto":
        decided = broadcast_object_list([precision or native_precision(compute_device())])
    # The loop takes parts itself, and weighs them: accelerate, which would read the environment, divides by nothing.
    whole = GradientAccumulationPlugin(num_steps=1)
    accelerator = Accelerator(
        mixed_precision=decided[0], gradient_accumulation_plugin=whole, log_with=tracker, project_dir=folder
    )
    check_num_processes(accelerator.num_processes)
    parts = accelerator.num_processes * config.gradient_accumulation_steps
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size: {config.batch_size} rows cannot be shared equally by {accelerator.num_processes} processes "
            f"with gradient_accumulation_steps: {config.gradient_accumulation_steps}"
        )
    return accelerator


def fit(
    model: PreTrainedModel,
    stream: RowStream,
    eval_sets: Mapping[str, RowStream],
    config: TrainConfig,
    run: RunDir,
    accelerator: Accelerator,
    progress: Progress | None = None,
    save_snapshot: Callable[[int, PreTrainedModel], None] | None = None,
) -> PreTrainedModel:
    """Train ``model`` in place and log to ``run``; goes on from the run's newest checkpoint if there is one.

    Step s of process r of R trains on rows ``[s*B + r*B/R, s*B + (r+1)*B/R)`` of ``stream``: data order needs no state.
    A log line holds the step, the loss of that step's rows, and the accuracy on every test set, or the loss.

    Args:
        model: changed.
        stream: training rows.
        eval_sets: test rows by name.
        config: how to train.
        run: the open run.
        accelerator: from :func:`start_accelerator`.
        progress: called after every step; a progress bar is shown without it.
        save_snapshot: called by the main process with (step, model) after the steps in ``config.snapshots``.

    Returns:
        the trained model, unwrapped, in evaluation mode.

    Raises:
        ValueError: the loss is not a number any more, or diverges; names the step and the last checkpoint.
    """
    training = _Training(model, stream, eval_sets, config, run, accelerator, save_snapshot)
    if config.log_with != "none":
        accelerator.init_trackers("ftmech_hf", config={name: str(value) for name, value in run.config.items()})
    tokens = config.batch_size * (stream.task.row_length - 1)
    shown = progress is None and run.is_main
    with make_bar(
        total=config.last_step, initial=training.start, desc=run.path.name, unit="step", disable=not shown
    ) as bar:
        for step, text in training:
            bar.update(step - bar.n)
            if text:
                rate = bar.format_dict["rate"]
                speed = f", {rate * tokens:,.0f} tokens/s" if rate else ""
                bar.set_postfix_str(text + speed, refresh=False)
            if progress is not None:
                progress(step, config.last_step, text)
    for tracker in accelerator.trackers:  # end_training would take the process group down, which a sweep still needs
        tracker.finish()
    return training.finished_model()


class _Training:
    """The state of one :func:`fit`; iterating over it trains and yields (step, text for the progress bar)."""

    def __init__(
        self,
        model: PreTrainedModel,
        stream: RowStream,
        eval_sets: Mapping[str, RowStream],
        config: TrainConfig,
        run: RunDir,
        accelerator: Accelerator,
        save_snapshot: Callable[[int, PreTrainedModel], None] | None,
    ) -> None:
        self.save_snapshot = save_snapshot
        self.stream, self.eval_sets, self.config, self.run = stream, eval_sets, config, run
        self.accelerator = accelerator
        if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu":
            # On CPU the backward pass of bf16 SDPA takes longer than the rest of the step together.
            model.set_attn_implementation("eager")
        self.raw_model = model
        self.anchor: Anchor | None = None
        if config.l2sp or config.ldifs:  # before a checkpoint is loaded: the start, not where an interrupted run was
            self.anchor = Anchor(model, l2sp=config.l2sp, ldifs=config.ldifs).to(accelerator.device)
        self.raw_optimizers = build_optimizers(
            model,
            optimizer=config.optimizer,
            lr=config.lr,
            muon_lr=config.muon_lr,
            weight_decay=config.weight_decay,
            betas=(config.adam_beta1, config.adam_beta2),
        )
        self.model, *self.optimizers = accelerator.prepare(model, *self.raw_optimizers)
        self.checkpoints = run.working / CHECKPOINTS
        began_with = noted(run.working, "mixed_precision")
        if began_with not in (None, accelerator.mixed_precision):
            raise ValueError(
                f"mixed_precision: {config.mixed_precision} is {accelerator.mixed_precision} here, but this run began "
                f"with {began_with}; go on where it is that, or start over with --fresh"
            )
        run.note(
            mixed_precision=accelerator.mixed_precision,
            processes=accelerator.num_processes,
            variables=noted_environment(),
        )
        self.start = load_checkpoint(self.checkpoints, self.raw_model, self.raw_optimizers)
        run.truncate_log(self.start if self.start else -1)
        self.cached_eval: dict[tuple[str, int], Tensor] = {}
        self.clock = Clock(exact=config.max_steps is not None)
        self.first_loss: float | None = noted(run.working, "first_loss") if self.start else None
        self.first_step: Tensor | None = None  # its loss, until somebody waits for the device

    def __iter__(self) -> Iterator[tuple[int, str]]:
        config, eval_steps = self.config, self.config.eval_steps()
        yield self.start, ""
        if self.start == 0 and 0 in eval_steps:
            self._evaluate(0, None)
        for step in range(self.start, config.last_step):
            with self.clock.step():
                loss = self._step(step)
            done = step + 1
            text = ""
            if done in eval_steps:
                text = self._evaluate(done, self._checked(loss, done))
            elif done % LOSS_CHECK_EVERY == 0:
                self._checked(loss, done)
            if done in config.snapshots and self.save_snapshot is not None:
                model = self._whole_model(self.raw_model)  # all processes gather, the main one writes
                if self.run.is_main:
                    self.save_snapshot(done, model)
            if done % config.checkpoint_every == 0 or done == config.last_step:
                self._save_checkpoint(done)
            yield done, text

    def _save_checkpoint(self, done: int) -> None:
        """Keep the state after a step if it is one to go on from; of the last step the weights alone.

        Older ones give way, so its loss is looked at too: that of its step was the loss before the weights changed.
        A diverged state would fail again at the next look, and good ones would be gone by then.
        """
        if self.config.max_steps is not None and done == self.config.last_step:
            return  # nobody goes on with a dry run
        self._checked(self._loss_after(done), done)
        optimizers = self.raw_optimizers if done < self.config.last_step else []
        try:
            save_checkpoint(self.checkpoints, done, self.raw_model, optimizers, is_main=self.run.is_main)
        except NotFinite as error:
            raise ValueError(f"loss: {error} after step {done}; {self._advice()}") from None

    def _advice(self) -> str:
        kept = [path.name for path in find_checkpoints(self.checkpoints)]
        return f"lower lr or muon_lr (checkpoint: {kept[-1] if kept else 'none'})"

    def _parts(self, step: int) -> list[tuple[Tensor, dict[str, float]]]:
        """This process' rows of a step, in the parts that are computed one after another, and the parts' weights."""
        share = self.config.batch_size // self.accelerator.num_processes
        first = step * self.config.batch_size + self.accelerator.process_index * share
        token_ids = torch.from_numpy(self.stream.rows(first, first + share).token_ids).to(self.accelerator.device)
        parts = token_ids.chunk(self.config.gradient_accumulation_steps)
        shares = self._shares(parts, num_predicted)
        of_features = self._shares(parts, num_shown) if self.config.ldifs else shares
        weights = [{"weight": share, "feature_weight": of} for share, of in zip(shares, of_features, strict=True)]
        return list(zip(parts, weights, strict=True))

    @torch.no_grad()
    def _loss_after(self, done: int) -> Tensor:
        """The loss on the rows of a step with the weights that it left behind."""
        self.model.eval()
        losses = [
            training_loss(self.model, part, self.config.objective, self.anchor, self.raw_model, **weights)
            for part, weights in self._parts(done - 1)
        ]
        return torch.stack(losses).sum()

    def _step(self, step: int) -> Tensor:
        config, accelerator = self.config, self.accelerator
        # Dropout, too, is a function of (seed, step, process).
        state = np.random.SeedSequence([config.seed, step, accelerator.process_index]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))
        self.model.train()
        parts = self._parts(step)
        total = torch.zeros((), device=accelerator.device)
        for number, (part, weights) in enumerate(parts, start=1):
            last = number == len(parts)
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                loss = training_loss(self.model, part, config.objective, self.anchor, self.raw_model, **weights)
                accelerator.backward(loss)
            total += loss.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        factor = lr_factor(
            step,
            steps=config.steps,
            warmup_fraction=config.warmup_fraction,
            final_lr_fraction=config.final_lr_fraction,
        )
        set_lr(self.raw_optimizers, factor)
        for each in self.optimizers:
            each.step()
            each.zero_grad()
        if step == 0:
            self.first_step = total
        return total

    def _shares(self, parts: Sequence[Tensor], count: Callable[[Tensor, str], int]) -> list[float]:
        """The weights of the parts' means, so that every token of a step counts alike in whichever part it is.

        Gradients are averaged over processes, so the shares of all of them together sum to their number.
        """
        if not OBJECTIVES[self.config.objective].packed:
            return [1 / len(parts)] * len(parts)
        numbers = [count(part, self.config.objective) for part in parts]
        here = torch.tensor(float(sum(numbers)), device=self.accelerator.device)
        everywhere = self.accelerator.reduce(here, reduction="mean")
        return [number / float(everywhere) for number in numbers]

    def _checked(self, loss: Tensor, step: int) -> float:
        value = float(self.accelerator.reduce(loss, reduction="mean"))
        if self.first_step is not None:
            first = float(self.accelerator.reduce(self.first_step, reduction="mean"))
            self.first_step, self.first_loss = None, first if math.isfinite(first) else None
            self.run.note(first_loss=self.first_loss)
        limit = DIVERGED * max(math.log(self.raw_model.config.vocab_size), self.first_loss or 0.0)
        if not value <= limit:
            raise ValueError(
                f"loss: became {value:.4g} at or before step {step}, above {limit:.4g}, which is {DIVERGED} times that "
                f"of a guess or of the first step; {self._advice()}"
            )
        return value

    def _evaluate(self, step: int, loss: float | None) -> str:
        rows = self.config.final_eval_rows if step == self.config.last_step else self.config.eval_rows
        if self.config.max_steps is not None:
            rows = min(rows, DRY_RUN_ROWS)
        self.model.eval()
        measure = self.stream.task.measure
        found = {}
        with self.clock.evaluation(rows * len(self.eval_sets)):
            for name, stream in self.eval_sets.items():
                if (name, rows) not in self.cached_eval:
                    self.cached_eval[name, rows] = torch.from_numpy(stream.rows(0, rows).token_ids)
                found[f"{measure}/{name}"] = MEASURES[measure](self.model, self.cached_eval[name, rows])
        line: dict[str, Any] = {"step": step, "eval_rows": rows}
        if loss is not None:
            line["loss"] = loss
        self.run.log(line | found)
        self.accelerator.log({key: value for key, value in (line | found).items() if key != "step"}, step=step)
        shown = [
            f"{name.partition('/')[2]} {value:.1%}" if measure == "accuracy" else f"{name} {value:.3f}"
            for name, value in list(found.items())[:2]
        ]
        return ", ".join([*([f"loss {loss:.3f}"] if loss is not None else []), *shown])

    def _whole_model(self, model: PreTrainedModel) -> PreTrainedModel:
        if any(isinstance(p, DTensor) for p in model.parameters()):
            weights = {name: whole_tensor(value).cpu() for name, value in model.state_dict().items()}
            model = AutoModelForCausalLM.from_config(model.config)
            model.load_state_dict(weights)
        return model

    def finished_model(self) -> PreTrainedModel:
        self.run.note(evaluation_seconds=round(self.clock.evaluation_seconds, 1))
        if self.config.max_steps is not None:
            self.run.note(projection=self._projection())
        unwrapped: PreTrainedModel = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        model = self._whole_model(unwrapped)
        self.accelerator.free_memory()
        return model.eval()

    def _projection(self) -> dict[str, Any]:
        config = self.config
        whole = dataclasses.replace(config, max_steps=None)
        looks = len(whole.eval_steps()) - 1
        eval_rows = len(self.eval_sets) * (looks * config.eval_rows + config.final_eval_rows)
        # six floating-point operations per trained weight and token, forward and backward
        tokens = config.steps * config.batch_size * (self.stream.task.row_length - 1)
        weights = self.raw_model.num_parameters(exclude_embeddings=True)
        if getattr(
            self.raw_model.config, "tie_word_embeddings", False
        ):  # left out with the embeddings, but multiplied with
            weights += self.raw_model.get_output_embeddings().weight.numel()
        flops = 6 * weights * tokens
        return project(self.clock, config.steps, eval_rows, flops, config.price_per_hour)
