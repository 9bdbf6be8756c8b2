"""Fine-tuning in memory: until a copy of a model answers right again, or on what it answers anyway.

A diagnosis needs a few dozen steps of several models, no run folders and no checkpoints; whoever wants those uses
``recipes/reverse_finetune.py``. Loss, optimizer and clipping are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.jobs.prompts import Questions
from ftmech_hf.training.evaluation import answer_accuracy, answer_logits
from ftmech_hf.training.objectives import answer_only_loss
from ftmech_hf.training.optim import build_optimizers


class Curve(NamedTuple):
    """Accuracy of a model that is fine-tuned back, at every evaluated step.

    Attributes:
        points: step -> accuracy on the test rows.
        steps: the first evaluated step at or above the threshold, at which it still was a step later; None if there
            was none.
        model: after the last step.
    """

    points: dict[int, float]
    steps: int | None
    model: PreTrainedModel

    @property
    def last(self) -> int:
        """The last evaluated step."""
        return max(self.points)


def evaluated_steps(steps: int) -> list[int]:
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
    """Fine-tune a copy of a model on the answers, at a constant rate, until it is back or the last step.

    It is back when it reaches the threshold at two evaluations in a row: one alone may be luck. The second is a step
    later, if need be after the last step.

    Args:
        model: stays as it is.
        questions: trained on and tested with.
        seed: of the order of the rows.
        steps: the last step.
        lr: of AdamW.
        batch_size: rows of a step.
        threshold: accuracy that ends it.
        eval_rows: the first test rows, which are evaluated.
    """
    *_, curve = _curves(
        model, questions, seed=seed, steps=steps, lr=lr, batch_size=batch_size, threshold=threshold, eval_rows=eval_rows
    )
    return curve


def race(
    models: tuple[PreTrainedModel, PreTrainedModel], questions: Questions, *, steps: int, beyond: float, **settings: Any
) -> tuple[Curve, Curve]:
    """:func:`revive` two models side by side until one of them is back or the last step.

    If the first is back, the second is followed for ``beyond`` times as many steps.

    Args:
        models: stay as they are.
        questions: trained on and tested with.
        steps: the last step.
        beyond: see above.
        settings: the other settings of :func:`revive`, the same for both.
    """
    runs = [_curves(model, questions, steps=round(steps * beyond), **settings) for model in models]
    curves = [next(run) for run in runs]
    while all(curve.steps is None for curve in curves) and min(curve.last for curve in curves) < steps:
        behind = int(curves[1].last < curves[0].last)
        curves[behind] = next(runs[behind])
    first, second = curves
    if first.steps is not None and second.steps is None:
        for second in runs[1]:
            if second.last >= beyond * first.steps:
                break
    return first, second


def _curves(
    model: PreTrainedModel,
    questions: Questions,
    *,
    seed: int,
    steps: int,
    lr: float,
    batch_size: int,
    threshold: float,
    eval_rows: int,
) -> Iterator[Curve]:
    """The curve after every evaluation; the last one has ``steps``, or ends at the last step."""
    test, when = questions.test[:eval_rows], set(evaluated_steps(steps))
    points: dict[int, float] = {}
    reached: int | None = None  # where it was reached, and is to be confirmed
    for done, trained in _tuned(model, lambda step: questions.training_rows(seed, step, batch_size), lr, steps + 1):
        if done > steps and reached is None:
            break
        if done in when or reached is not None:
            points[done] = answer_accuracy(trained, test)
            above = points[done] >= threshold
            if above and reached is not None:
                yield Curve(dict(points), reached, trained)
                return
            reached = done if above and done <= steps else None
            yield Curve(dict(points), None, trained)


def self_distil(
    model: PreTrainedModel, questions: Questions, *, seed: int, steps: int, lr: float, batch_size: int
) -> PreTrainedModel:
    """Fine-tune a copy of a model on its own answers: a fine-tuning that teaches nothing.

    Args:
        model: stays as it is.
        questions: asked, and answered by the model itself.
        seed, steps, lr, batch_size: as for :func:`revive`.
    """

    def own_answers(step: int) -> Tensor:
        rows = questions.training_rows(seed, step, batch_size).clone()
        rows[:, -2] = answer_logits(model, rows).argmax(-1)
        return rows

    *_, (_, distilled) = _tuned(model, own_answers, lr, steps)
    return distilled


def _tuned(
    model: PreTrainedModel, rows_of: Callable[[int], Tensor], lr: float, steps: int
) -> Iterator[tuple[int, PreTrainedModel]]:
    """(steps done, a copy of the model in evaluation mode), before the first step and after every one."""
    model = copy.deepcopy(model).requires_grad_(True)
    (optimizer,) = build_optimizers(model, optimizer="adamw", lr=lr, muon_lr=lr, weight_decay=0.01, betas=(0.9, 0.95))
    yield 0, model.eval()
    for done in range(steps):
        loss = answer_only_loss(model.train(), rows_of(done))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield done + 1, model.eval()
