"""Steps of training on answers: of a copy of a model in float32, or of the model itself with an adapter."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator

import numpy as np
import torch
from transformers import PreTrainedModel

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.training.low_rank import adapter_in_place
from ftmech_hf.training.optim import build_optimizers

FIRST_SCALE = 2.0**12
"""So many times the loss is taken at first of a model in float16; where that is too much, the step is left out."""


def kept_as(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A model whose weights are turned into another type of number; its buffers stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


@contextlib.contextmanager
def trainable(model: PreTrainedModel, seed: int, in_place: bool) -> Iterator[PreTrainedModel]:
    """What is trained: a copy of a model in float32, or while it is open the model itself with an adapter."""
    if not in_place:
        yield copy.deepcopy(model).float().requires_grad_(True)
        return
    with adapter_in_place(model, seed=seed):
        yield model


def tuned_steps(
    model: PreTrainedModel,
    questions: Behavior,
    rows_of: Callable[[int], AnswerRows],
    *,
    seed: int,
    lr: float,
    steps: int,
) -> Generator[int]:
    """How many steps are done, before the first and after every one; then the model is in evaluation mode.

    Args:
        model: of :func:`trainable`, whose parameters that ask for gradients are trained.
        questions: whose loss it is.
        rows_of: the rows of a step.
        seed: of what dropout draws.
        lr: constant, of AdamW.
        steps: the last.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    (optimizer,) = build_optimizers(model, optimizer="adamw", lr=lr, muon_lr=lr, weight_decay=0.01, betas=(0.9, 0.95))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Between blocks in float16 a gradient below 6e-8 is nothing, unless the loss is taken so many times.
    scaler = torch.amp.GradScaler(
        model.device.type,
        init_scale=FIRST_SCALE,
        enabled=any(each.dtype == torch.float16 for each in model.parameters()),
    )
    # blocks that are computed again in the backward pass must do all that they did
    recomputed = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    with contextlib.nullcontext() if recomputed else questions.answered_alone(model):
        model.eval()
        yield 0
        for done in range(steps):
            rows = rows_of(done)
            with torch.random.fork_rng(devices):  # what dropout draws depends on nothing that was drawn before
                torch.manual_seed(int(np.random.SeedSequence([seed, done]).generate_state(1)[0]))
                loss = questions.loss(model.train(), rows)
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            model.eval()
            yield done + 1
