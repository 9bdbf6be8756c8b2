"""What does a model keep over a sequence of tasks, what does it lose, and what does it still learn?

``R[i, j]`` is the accuracy on task j after task i of T; row 0 is the model before the first. Transfer and accuracy are
those of Lopez-Paz & Ranzato (arXiv 1706.08840), forgetting that of Chaudhry et al. (arXiv 1801.10112), the change of
linear probes that of Mukhoti et al. (arXiv 2308.13320). Of what is never tuned, the loss in the model's own answers is
called concept loss; only there can it be compared with the change of a probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftmech_hf.statistics.floors import lead


@dataclass(frozen=True, kw_only=True)
class ContinualResult:
    """Numbers of one sequence; all are shares, and nan where there is nothing to take a mean of.

    Attributes:
        accuracy: mean accuracy on all tasks in the end.
        backward_transfer: what tasks gain (or lose, below 0) after they were learned, until the end.
        forward_transfer: what a task gains over the first model before it is learned.
        forgetting: what a task loses from its best between being learned and the task before the last; at least
            ``backward_transfer`` with its sign turned, and below 0 where the last task is what makes it best.
        learned: mean accuracy on a task right after it was learned.
        concept_loss: what is never tuned loses from the first model to the last.
        probe_change: the same of linear probes, with its sign turned (Delta_LP); None if none were fitted.
        plasticity_gap: what tasks are learned better alone; None if they were not.
    """

    accuracy: float
    backward_transfer: float
    forward_transfer: float
    forgetting: float
    learned: float
    concept_loss: float
    probe_change: float | None
    plasticity_gap: float | None

    def summary(self) -> dict[str, Any]:
        """All numbers by name."""
        return dict(vars(self))


def measure_continual(
    tuned: ArrayLike,
    never_tuned: ArrayLike,
    *,
    probes: ArrayLike | None = None,
    single: ArrayLike | None = None,
) -> ContinualResult:
    """Take the numbers of a sequence from its accuracies.

    The best that forgetting is measured from is of models that had learned the task: Chaudhry et al. take those before
    them, too. Forward transfer is measured against the first model; the original takes a model of random weights off,
    of which nothing is known where the first model was pretrained on what is learned.

    Args:
        tuned: R of the tasks in their order, (T + 1, T).
        never_tuned: accuracies on H other capabilities, (T + 1, H).
        probes: accuracies of linear probes for these in the first and in the last model, (2, H).
        single: accuracy on each task of a model that learned it alone, (T,).

    Raises:
        ValueError: the shapes do not fit.
    """
    R, kept = np.asarray(tuned, np.float64), np.asarray(never_tuned, np.float64)
    if R.ndim != 2 or len(R) != R.shape[1] + 1 or not R.shape[1]:
        raise ValueError(f"tuned: shape {R.shape}, expected (tasks + 1, tasks)")
    if kept.ndim != 2 or len(kept) != len(R):
        raise ValueError(f"never_tuned: shape {kept.shape}, expected {len(R)} rows")
    tasks = R.shape[1]
    places = np.arange(tasks)
    after = R[1:]
    diagonal = after[places, places]
    best = np.array([after[place:-1, place].max() for place in range(tasks - 1)])
    change = None
    if probes is not None:
        before, last = np.asarray(probes, np.float64)
        change = _mean(last - before)
    alone = None if single is None else _mean(np.asarray(single, np.float64) - diagonal)
    return ContinualResult(
        accuracy=_mean(after[-1]),
        backward_transfer=_mean(after[-1, :-1] - diagonal[:-1]),
        forward_transfer=_mean(R[places[1:], places[1:]] - R[0, 1:]),
        forgetting=_mean(best - after[-1, :-1]),
        learned=_mean(diagonal),
        concept_loss=_mean(kept[0] - kept[-1]),
        probe_change=change,
        plasticity_gap=alone,
    )


def leads(accuracies: Mapping[str, float], floors: Mapping[str, float]) -> dict[str, float]:
    """The share of what is above its floor that each accuracy reaches, by the same names."""
    return {name: lead(value, floors[name]) for name, value in accuracies.items()}


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")
