"""How many steps of reverse fine-tuning bring a capability back? Always read beside the control's number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RevivalResult:
    """When a capability came back under reverse fine-tuning.

    Attributes:
        steps: the first evaluated optimizer step at or above the threshold; None if it was never reached.
        last_step: the last evaluated step, a lower bound where ``steps`` is None.
        threshold: the accuracy that counts as revived, 0 to 1.
    """

    steps: int | None
    last_step: int
    threshold: float

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row."""
        return [self.summary()]

    def summary(self) -> dict[str, Any]:
        """The same, under the names of published tables."""
        return {"steps_to_revival": self.steps, "last_step": self.last_step, "threshold": self.threshold}

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
    reached = next((step for step, accuracy in curve if accuracy >= threshold), None)
    return RevivalResult(reached, curve[-1][0], threshold)
