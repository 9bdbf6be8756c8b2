"""How many steps of reverse fine-tuning bring a capability back? Always read beside the control's number.

Steps to a threshold are a first passage: a model whose accuracy stays below the threshold gets there by luck sooner or
later, if one evaluation on few rows is enough. So two evaluations in a row must be at the threshold, and those near it
take many rows (:mod:`ftmech_hf.statistics.crossing`). The area under the curve, which asks for no threshold, stands
beside the steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class RevivalResult:
    """When a capability came back under reverse fine-tuning.

    Attributes:
        steps: the first of two evaluated optimizer steps in a row at or above the threshold; None if there are none.
        last_step: the last evaluated step, a lower bound where ``steps`` is None.
        threshold: the accuracy that counts as revived, 0 to 1.
        area: mean accuracy over the logarithm of the step, 0 to 1; see :func:`area_over_log_steps`.
        before: the evaluated step before ``steps``, at which it was not back: it came back somewhere between the two.
    """

    steps: int | None
    last_step: int
    threshold: float
    area: float
    before: int | None = None

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row."""
        return [self.summary()]

    def summary(self) -> dict[str, Any]:
        """The same, under the names of published tables."""
        return {
            "steps_to_revival": self.steps, "last_step": self.last_step, "threshold": self.threshold,
            "revival_area": self.area,
        }  # fmt: skip

    @property
    def ends(self) -> tuple[int, int] | None:
        """Between which steps it came back; the last one twice where it did not; None where that is not known."""
        if self.steps is None:
            return self.last_step, self.last_step
        return None if self.before is None else (self.before, self.steps)

    @property
    def at_least(self) -> int:
        """Steps to revival, or the number of steps that did not suffice."""
        return self.last_step if self.steps is None else self.steps


def steps_to_revival(
    metrics: Iterable[Mapping[str, Any]], capability: str, *, threshold: float = 0.95
) -> RevivalResult:
    """Read the revival off a training curve.

    Args:
        metrics: lines of a run's ``metrics.jsonl``, in order.
        capability: test set, such as ``count_a``.
        threshold: accuracy between 0 and 1.

    Raises:
        ValueError: there is no evaluation among the lines.
    """
    curve = [(int(line["step"]), float(line[f"accuracy/{capability}"])) for line in metrics]
    if not curve:
        raise ValueError("metrics: holds no evaluation")
    reached = first_of_two([(step, accuracy >= threshold) for step, accuracy in curve])
    before = None if reached is None else max((step for step, _ in curve if step < reached), default=reached)
    return RevivalResult(reached, curve[-1][0], threshold, area_over_log_steps(curve), before)


def first_of_two(curve: Iterable[tuple[int, bool]]) -> int | None:
    """The first of two evaluated steps in a row at which a model was back; None if there are none.

    Args:
        curve: (step, whether it was back), in order.
    """
    return next((step for (step, one), (_, other) in itertools.pairwise(curve) if one and other), None)


def area_over_log_steps(curve: Sequence[tuple[int, float]]) -> float:
    """The area under an accuracy curve over log(1 + step), as a share of what accuracy 1 throughout would have.

    With evaluations at steps s_0 < ... < s_n and x_i = log(1 + s_i) it is the trapezoidal
    sum_i (x_i - x_(i-1)) (a_i + a_(i-1)) / 2, over x_n - x_0; of a single evaluation its accuracy. Areas are compared
    between curves of the same first and last step only.

    Args:
        curve: (step, accuracy), in order.
    """
    if len(curve) == 1:
        return curve[0][1]
    steps, accuracy = (np.asarray(column, float) for column in zip(*curve, strict=True))
    place = np.log1p(steps)
    return float(np.trapezoid(accuracy, place) / (place[-1] - place[0]))


class RevivalRatio(NamedTuple):
    """How many times as many steps one model takes to come back as another, and what is known of that.

    Attributes:
        value: the ratio, or the bound on it.
        at_least: the ratio may be larger: the slower model was never back.
        at_most: it may be smaller: the faster model was never back. With both, nothing is known.
        ends: of the ratio, as steps are evaluated here and there alone; None where that is not known.
    """

    value: float
    at_least: bool = False
    at_most: bool = False
    ends: tuple[float, float] | None = None


def revival_ratio(fast: RevivalResult, slow: RevivalResult) -> RevivalRatio:
    """Steps of ``slow``, such as a control, over those of ``fast``; a model that was back before it began took one."""
    value = max(1, slow.at_least) / max(1, fast.at_least)
    ends = None
    if slow.ends is not None and fast.ends is not None:
        (low, high), (least, most) = ([max(1, end) for end in each] for each in (slow.ends, fast.ends))
        ends = low / most, high / least
    return RevivalRatio(value, at_least=slow.steps is None, at_most=fast.steps is None, ends=ends)
