"""What did fine-tuning gain, and what did the model forget? Both read off one training curve, on the same test sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ftmech_hf.statistics.measures import accuracy_change, most_forgotten


@dataclass(frozen=True)
class ForgettingResult:
    """Accuracies on the same test sets before and after fine-tuning.

    Attributes:
        before, after: test set -> accuracy of the model before the first step and after the last, 0 to 1.
    """

    before: dict[str, float]
    after: dict[str, float]

    @property
    def change(self) -> dict[str, float]:
        """Test set -> accuracy gained; what is negative was forgotten."""
        return accuracy_change(self.before, self.after)

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per test set."""
        return [
            {"test_set": name, "before": self.before[name], "after": self.after[name], "change": change}
            for name, change in self.change.items()
        ]

    def summary(self) -> dict[str, Any]:
        """The test set that lost most and the one that gained most, None if none did; nothing without an accuracy."""
        change = self.change
        if not change:  # of a run that has losses alone
            return {}
        fallen = {name: -each for name, each in change.items()}
        return {"most_forgotten": most_forgotten(change), "most_gained": most_forgotten(fallen)}


def measure_forgetting(metrics: Iterable[Mapping[str, Any]]) -> ForgettingResult:
    """Compare the first evaluation of a fine-tuning run, which is its starting model's, with the last.

    On the operand that fine-tuning does not ask about this is concept forgetting (Mukhoti et al., arXiv 2308.13320) in
    the model's own answers; theirs, in linear probes, is the difference of two probing results.

    Args:
        metrics: lines of a run's ``metrics.jsonl``, in order.

    Raises:
        ValueError: there is no evaluation among them.
    """
    lines = [
        {key.removeprefix("accuracy/"): float(value) for key, value in line.items() if key.startswith("accuracy/")}
        for line in metrics
    ]
    if not lines:
        raise ValueError("metrics: holds no evaluation")
    return ForgettingResult(lines[0], lines[-1])
