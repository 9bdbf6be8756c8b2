"""Fine-tuning in memory: until a model answers right again, or on what it answers anyway.

A diagnosis needs a few dozen steps of several models, no run folders and no checkpoints; whoever wants those uses
``recipes/reverse_finetune.py``. Loss, optimizer and clipping are the same.

Small models are trained as copies, all of their weights, in float32 whatever they are kept in. Large ones get an
adapter in their place (:mod:`ftmech_hf.training.low_rank`), so that no second copy of them is needed.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
from collections.abc import Generator, Iterator
from typing import NamedTuple, NotRequired, TypedDict, Unpack

from transformers import PreTrainedModel

from ftmech_hf.analysis.revival import first_of_two
from ftmech_hf.jobs.answer_scores import answer_rows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.statistics.crossing import NEAR_ROWS, count_right, look_sizes
from ftmech_hf.studies.diagnosis.answer_training import kept_as, trainable, tuned_steps
from ftmech_hf.training.low_rank import LowRankChange, change_of

ADAPTER_RATE = 10.0
"""An adapter learns at so many times the rate of whole weights (Schulman et al., "LoRA Without Regret", 2025)."""


class Curve(NamedTuple):
    """Accuracy of a model that is fine-tuned back, at every evaluated step.

    Attributes:
        points: step -> accuracy, on more rows where it is near the threshold (:mod:`ftmech_hf.statistics.crossing`).
        steps: the first of two evaluated steps in a row at or above the threshold; None if there are none.
        end: the model after the last step; of one that was trained in its place, how it differs from what it was.
    """

    points: dict[int, float]
    steps: int | None
    end: PreTrainedModel | LowRankChange

    @property
    def model(self) -> PreTrainedModel:
        """The model after the last step, where it is a copy."""
        assert not isinstance(self.end, LowRankChange)
        return self.end

    @property
    def last(self) -> int:
        """The last evaluated step."""
        return max(self.points)


EVALS_PER_DECADE = 12
"""Evaluations while steps grow tenfold."""


def evaluation_grid() -> Iterator[int]:
    """Steps to evaluate after, without an end: the same for every model, however long it is followed."""
    yield 0
    last = 0
    for number in itertools.count():
        step = round(10 ** (number / EVALS_PER_DECADE))
        if step > last:
            yield step
        last = step


def evaluated_steps(steps: int) -> list[int]:
    """The steps of the grid up to the last, and the last itself."""
    return [*itertools.takewhile(lambda step: step < steps, evaluation_grid()), steps]


class RevivalSettings(TypedDict):
    """How a model is fine-tuned back.

    Attributes:
        lr: of AdamW; an adapter's is :data:`ADAPTER_RATE` times that.
        batch_size: rows of a step.
        threshold: accuracy that ends it.
        eval_rows: rows of an evaluation; of those near the threshold it is up to all test and validation rows, or
            :data:`~ftmech_hf.statistics.crossing.NEAR_ROWS`.
        in_place: whether an adapter is trained on the model itself, and no copy of it.
        to_the_end: whether a model that is back is trained on to the last step.
    """

    lr: float
    batch_size: int
    threshold: float
    eval_rows: int
    in_place: NotRequired[bool]
    to_the_end: NotRequired[bool]


def revive(
    model: PreTrainedModel, questions: Behavior, *, seed: int, steps: int, **settings: Unpack[RevivalSettings]
) -> Curve:
    """Fine-tune a model on the answers, at a constant rate, until it is back (or beyond, if asked) or the last step.

    It is back when it reaches the threshold at two evaluations in a row: one alone may be luck. Where the first is
    after the last step, the second comes at the next step of the grid.

    Args:
        model: is afterwards as it was.
        questions: trained on and tested with.
        seed: of the order of the rows, of dropout and of an adapter.
        steps: the last step.
        settings: see :class:`RevivalSettings`.
    """
    # each has the weights of its step, of which the last ones alone are kept
    (curve,) = collections.deque(_curves(model, questions, seed=seed, steps=steps, **settings), maxlen=1)
    return curve


def race(
    models: tuple[PreTrainedModel, PreTrainedModel],
    questions: Behavior,
    *,
    seed: int,
    steps: int,
    beyond: float,
    **settings: Unpack[RevivalSettings],
) -> tuple[Curve, Curve]:
    """:func:`revive` two models side by side until one of them is back or the last step.

    If the first is back, the second is followed for ``beyond`` times as many steps.

    Args:
        models: are afterwards as they were; two objects.
        questions: trained on and tested with.
        seed: as for :func:`revive`, the same for both.
        steps: the last step.
        beyond: see above.
        settings: see :class:`RevivalSettings`; the same for both.
    """
    runs = [_curves(model, questions, seed=seed, steps=round(steps * beyond), **settings) for model in models]
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.callback(run.close)  # models come back as they were
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
    model: PreTrainedModel, questions: Behavior, *, seed: int, steps: int, **settings: Unpack[RevivalSettings]
) -> Generator[Curve]:
    """The curve after every evaluation; the last one has ``steps``, or ends at the last step."""
    threshold = settings["threshold"]
    to_confirm = next(step for step in evaluation_grid() if step > steps)
    when = {*evaluated_steps(steps), to_confirm}
    points: dict[int, float] = {}
    rows_of = functools.partial(questions.training_rows, seed, batch_size=settings["batch_size"])
    in_place = settings.get("in_place", False)
    lr = settings["lr"] * (ADAPTER_RATE if in_place else 1)
    with (
        trainable(model, seed, in_place) as trained,
        contextlib.closing(tuned_steps(trained, questions, rows_of, seed=seed, lr=lr, steps=to_confirm)) as tuned,
    ):
        for done in tuned:
            if done not in when:
                continue
            points[done] = accuracy_near(trained, questions, threshold, settings["eval_rows"])
            back = first_of_two([(step, value >= threshold) for step, value in points.items()])
            yield Curve(dict(points), back, change_of(trained) if in_place else trained)
            if done >= steps and (back is not None or points[done] < threshold):
                return
            if back is not None and not settings.get("to_the_end", False):
                return


def accuracy_near(model: PreTrainedModel, questions: Behavior, threshold: float, few: int) -> float:
    """Mean score of the first rows, and of more where they leave open whether a model is at a threshold.

    Args:
        model: that is asked.
        questions: whose test rows are asked, and then those that nothing is trained on either.
        threshold: see :mod:`ftmech_hf.statistics.crossing`.
        few: the first rows.
    """
    parts = (questions.test, questions.validation)
    most = min(sum(map(len, parts)), NEAR_ROWS)

    def right_of(at: slice) -> float:
        total, before = 0.0, 0
        for rows in parts:
            asked = rows[max(at.start - before, 0) : max(at.stop - before, 0)]
            total += float(questions.score(model, asked).double().sum()) if len(asked) else 0.0
            before += len(rows)
        return total

    right, asked = count_right(right_of, look_sizes(min(few, most), most), threshold)
    return right / asked


def self_distil(
    model: PreTrainedModel,
    questions: Behavior,
    *,
    seed: int,
    steps: int,
    lr: float,
    batch_size: int,
    in_place: bool = False,
) -> PreTrainedModel:
    """A copy of a model that is fine-tuned on the model's own answers: a fine-tuning that teaches nothing.

    Args:
        model: is afterwards as it was.
        questions: asked, and answered by the model itself.
        seed, steps, lr, batch_size, in_place: as for :func:`revive`.
    """
    with questions.answered_alone(model):
        own = [answer_rows(model, questions.training_rows(seed, step, batch_size)) for step in range(steps)]
    rate = lr * (ADAPTER_RATE if in_place else 1)
    with trainable(model, seed, in_place) as student:
        for _ in tuned_steps(student, questions, own.__getitem__, seed=seed, lr=rate, steps=steps):
            pass
        change = change_of(student) if in_place else None
    return kept_as(student, model.dtype) if change is None else change.added_to(model)


@contextlib.contextmanager
def taught(
    model: PreTrainedModel, questions: Behavior, *, seed: int, steps: int, lr: float, batch_size: int, in_place: bool
) -> Iterator[PreTrainedModel]:
    """While open, what a model is after so many steps on the answers: a copy of it, or itself with an adapter.

    Args:
        model: is afterwards as it was.
        questions: trained on.
        seed, steps, lr, batch_size, in_place: as for :func:`revive`.
    """
    rows_of = functools.partial(questions.training_rows, seed, batch_size=batch_size)
    rate = lr * (ADAPTER_RATE if in_place else 1)
    with trainable(model, seed, in_place) as trained:
        for _ in tuned_steps(trained, questions, rows_of, seed=seed, lr=rate, steps=steps):
            pass
        yield trained
