"""Reverse fine-tuning in memory: how many steps until a copy of a model answers right again?

A diagnosis needs a few dozen steps of several models, no run folders and no checkpoints; whoever wants those uses
``recipes/reverse_finetune.py``. Loss, optimizer and clipping are the same.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from ftmech_hf.studies.questions import Questions
from ftmech_hf.training.objectives import answer_accuracy, answer_only_loss
from ftmech_hf.training.optim import build_optimizers


class Curve(NamedTuple):
    """Attributes:
    points: step -> accuracy on the test rows.
    steps: the first evaluated step at or above the threshold; None if it was not reached.
    model: after the last step.
    """

    points: dict[int, float]
    steps: int | None
    model: PreTrainedModel


def looks(steps: int) -> list[int]:
    """Steps to evaluate after: each one to four, then a third more each time, and the last."""
    found = [0]
    while found[-1] < steps:
        found.append(min(steps, max(found[-1] + 1, round(found[-1] * 4 / 3))))
    return found


def revive(
    model: PreTrainedModel,
    questions: Questions,
    *,
    seed: int,
    steps: int,
    lr: float,
    batch_size: int,
    threshold: float,
    eval_rows: int,
) -> Curve:
    """Fine-tune a copy of a model on the answers, at a constant rate, until it reaches a threshold or the last step.

    Args:
        model: stays as it is.
        questions: trained on and tested with.
        seed: of the order of the rows.
        steps: the last step.
        lr: of AdamW.
        batch_size: rows of a step.
        threshold: accuracy that ends it.
        eval_rows: the first test rows, which are looked at.
    """
    model = copy.deepcopy(model).requires_grad_(True)
    (optimizer,) = build_optimizers(model, optimizer="adamw", lr=lr, muon_lr=lr, weight_decay=0.01, betas=(0.9, 0.95))
    test, when, points, done = questions.test[:eval_rows], set(looks(steps)), {}, 0
    while True:
        if done in when:
            points[done] = answer_accuracy(model.eval(), test)
            if points[done] >= threshold or done == steps:
                return Curve(points, done if points[done] >= threshold else None, model.eval())
        loss = answer_only_loss(model.train(), questions.training_rows(seed, done, batch_size))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done += 1
