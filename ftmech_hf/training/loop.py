"""The one training loop: pretraining, fine-tuning and reversing differ only in what they hand to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, broadcast_object_list
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.runs import CHECKPOINTS, RunDir, noted
from ftmech_hf.tasks import RowStream
from ftmech_hf.training.attention import attending_without_waiting
from ftmech_hf.training.checkpoint import NotFinite, load_checkpoint, save_checkpoint, whole_model
from ftmech_hf.training.cost_estimate import Clock, project, training_flops
from ftmech_hf.training.divergence import LossCheck
from ftmech_hf.training.evaluation import Evaluation, in_words
from ftmech_hf.training.keeping import Keeping, total_loss_of
from ftmech_hf.training.launch import (
    check_batch,
    check_environment,
    check_num_processes,
    check_tracker,
    compute_device,
    native_precision,
)
from ftmech_hf.training.memory import keep_freed_memory, recompute_blocks
from ftmech_hf.training.numerics import computing_as, note_numerics
from ftmech_hf.training.objectives import OBJECTIVES, Objective
from ftmech_hf.training.optim import lr_factor_of, optimizers_of
from ftmech_hf.training.parts import Parts
from ftmech_hf.training.progress import make_bar
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.step import CapturedStep, Step, find_way, why_not_captured

LOSS_CHECK_EVERY = 50
"""Steps between checks of the loss, each of which waits for the device."""

DRY_RUN_ROWS = 64
"""Rows per test set at the end of a dry run, at most: enough to know what a row takes."""

WORTH_COLLECTING = 10_000_000
"""Weights from which what a training leaves is collected at once, which takes as long as dozens of nano steps."""

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
    check_tracker(config.log_with)
    tracker = None if config.log_with == "none" else config.log_with
    decided = [config.mixed_precision]
    if config.mixed_precision == "auto":
        decided = broadcast_object_list([precision or native_precision(compute_device())])
    # The loop takes parts itself, and weighs them: accelerate, which would read the environment, divides by nothing.
    whole = GradientAccumulationPlugin(num_steps=1)
    # What reads the output of one layer gives the later ones no gradients, for which processes would wait.
    unused = DistributedDataParallelKwargs(
        find_unused_parameters=OBJECTIVES[config.objective]().reads_layer is not None
    )
    accelerator = Accelerator(
        mixed_precision=decided[0], gradient_accumulation_plugin=whole, log_with=tracker, project_dir=folder,
        kwargs_handlers=[unused],
    )  # fmt: skip
    check_num_processes(accelerator.num_processes)
    check_batch(config.batch_size, config.gradient_accumulation_steps, accelerator.num_processes)
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
    objective: Objective | None = None,
    keeping: Keeping | None = None,
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
        objective: the one that ``config`` names, with settings of its own; as it is by default without it.
        keeping: what keeps the model near what it was, beside what ``config`` says of it.

    Returns:
        the trained model, unwrapped, in evaluation mode.

    Raises:
        ValueError: the loss is not a number any more, or diverges; names the step and the last checkpoint.
    """
    objective = objective or OBJECTIVES[config.objective]()
    with computing_as(config), attending_without_waiting(model, accelerator.device):
        training = _Training(model, stream, eval_sets, config, run, accelerator, save_snapshot, objective, keeping)
        if config.log_with != "none":
            accelerator.init_trackers("ftmech_hf", config={name: str(value) for name, value in run.config.items()})
        try:
            _show(training, progress, config.batch_size * stream.task.tokens_per_row)
        finally:
            training.parts.stop()
    for tracker in accelerator.trackers:  # end_training would take the process group down, which a sweep still needs
        tracker.finish()
    return training.finished_model()


def _show(training: _Training, progress: Progress | None, tokens: float) -> None:
    """Train, and tell ``progress`` or a bar what comes of it; ``tokens`` are those of a step."""
    config, run = training.config, training.run
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
        objective: Objective,
        keeping: Keeping | None,
    ) -> None:
        self.save_snapshot, self.tokens_per_row = save_snapshot, stream.task.tokens_per_row
        self.config, self.run, self.accelerator = config, run, accelerator
        self.evaluation = Evaluation(eval_sets, stream.task)
        if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu":
            # On CPU the backward pass of bf16 SDPA takes longer than the rest of the step together.
            model.set_attn_implementation("eager")
        recompute_blocks(model, config.gradient_checkpointing)
        self.raw_model = model
        # before a checkpoint is loaded: it remembers the start, not where an interrupted run was
        self.total = total_loss_of(model, objective, config, keeping).to(accelerator.device)
        self.parts = Parts(stream, config, self.total, accelerator)
        shared = accelerator.distributed_type in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        self.raw_optimizers = optimizers_of(config, model, shared=shared)
        self.model, *self.optimizers = accelerator.prepare(model, *self.raw_optimizers)
        self.checkpoints = run.working / CHECKPOINTS
        why_not = why_not_captured(config, accelerator, self.total, stream, model)
        way = find_way(config, accelerator.device, why_not, noted(run.working, "steps_computed"))
        note_numerics(run, config, accelerator, way)
        self.start = load_checkpoint(self.checkpoints, self.raw_model, self.raw_optimizers)
        run.truncate_log(self.start if self.start else -1)
        of_step = (config, accelerator, self.total, self.model, model, self.optimizers, self.raw_optimizers)
        self.take_step = Step(*of_step) if way == "eager" else CapturedStep(*of_step, compiled=way == "compiled")
        self.clock = Clock(waits_for=None if config.max_steps is None else accelerator.device)
        vocabulary = model.config.get_text_config().vocab_size
        self.checked = LossCheck(run, accelerator, vocabulary=vocabulary, resumed=self.start > 0)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        config, eval_steps = self.config, self.config.eval_steps()
        yield self.start, ""
        if self.start == 0 and 0 in eval_steps:
            self._evaluate(0, None)
        for step in range(self.start, config.last_step):
            with self.clock.step():
                loss = self._step(step)
            done = step + 1
            if done == config.steps:
                self.total.average_with_start(self.raw_model)
            text = ""
            if done in eval_steps:
                text = self._evaluate(done, self.checked(loss, done))
            elif done % LOSS_CHECK_EVERY == 0:
                self.checked(loss, done)
            if done in config.snapshots and self.save_snapshot is not None:
                model = whole_model(self.raw_model)  # all processes gather, the main one writes
                if self.run.is_main:
                    self.save_snapshot(done, model)
            if done % config.checkpoint_every == 0 or done == config.last_step:
                self._save_checkpoint(done)
            yield done, text

    def _save_checkpoint(self, done: int) -> None:
        """Keep the state after a step if it is one to go on from; of the last step the weights alone.

        Older ones give way, so its loss is checked too: that of its step was the loss before the weights changed.
        A diverged state would fail again at the next check, and good ones would be gone by then.
        """
        if self.config.max_steps is not None and done == self.config.last_step:
            return  # nobody goes on with a dry run
        self.checked(self._loss_after(done), done)
        optimizers = self.raw_optimizers if done < self.config.last_step else []
        try:
            save_checkpoint(self.checkpoints, done, self.raw_model, optimizers, is_main=self.run.is_main)
        except NotFinite as error:
            raise ValueError(f"loss: {error} after step {done}; {self.checked.advice()}") from None

    @torch.no_grad()
    def _loss_after(self, done: int) -> Tensor:
        """The loss on the rows of a step with the weights that it left behind."""
        self.model.eval()
        losses = [
            self.total(self.model, part, self.raw_model, **weights) for part, weights in self.parts.of_step(done - 1)
        ]
        return torch.stack(losses).sum()

    def _step(self, step: int) -> Tensor:
        loss = self.take_step(step, self.parts.of_step(step), lr_factor_of(self.config, step))
        if step == 0:
            self.checked.first_step = loss.clone()
        return loss

    def _evaluate(self, step: int, loss: float | None) -> str:
        sizes = self.config.eval_sizes(step)
        if self.config.max_steps is not None:
            sizes = [min(sizes[0], DRY_RUN_ROWS)]
        sizes = list(dict.fromkeys(map(self.evaluation.num_rows, sizes)))  # there may be no more rows
        rows = sizes[0]
        with self.clock.evaluation(rows * len(self.evaluation)):
            found = self.evaluation(self.model, sizes, self.config.eval_near)
        line: dict[str, Any] = {"step": step, "eval_rows": rows, **({} if loss is None else {"loss": loss})}
        self.run.log(line | found)
        self.accelerator.log({key: value for key, value in (line | found).items() if key != "step"}, step=step)
        return ", ".join([*([f"loss {loss:.3f}"] if loss is not None else []), in_words(found)])

    def finished_model(self) -> PreTrainedModel:
        self.run.note(evaluation_seconds=round(self.clock.evaluation_seconds, 1))
        if self.config.max_steps is not None:
            self.run.note(projection=self._projection())
        unwrapped: PreTrainedModel = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        model = whole_model(unwrapped)
        if sum(weight.numel() for weight in self.raw_model.parameters()) >= WORTH_COLLECTING:
            self.accelerator.free_memory()
        self.raw_model.zero_grad()  # captured steps leave their gradients where they were
        recompute_blocks(model, False)
        return model.eval()

    def _projection(self) -> dict[str, Any]:
        config = self.config
        whole = dataclasses.replace(config, max_steps=None)
        sizes = (self.evaluation.num_rows(whole.eval_sizes(step)[-1]) for step in whole.eval_steps())  # at most
        eval_rows = len(self.evaluation) * sum(sizes)
        tokens = config.steps * config.batch_size * self.tokens_per_row
        flops = training_flops(self.raw_model, tokens)
        return project(self.clock, config.steps, eval_rows, flops, config.price_per_hour)
