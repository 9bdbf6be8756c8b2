"""Numbers of models' answers and distributions, which analyses and :mod:`ftmech_hf.statistics.metrics` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def kl_from_truth(log_model: Tensor, truth: Tensor) -> Tensor:
    """KL(truth || model) in nats along the last dimension; what cannot come counts nothing.

    Args:
        log_model: log probabilities (..., V).
        truth: probabilities (..., V), summing to 1.
    """
    return torch.where(truth > 0, truth * (truth.log() - log_model), 0.0).sum(-1)


def accuracy_change(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Accuracy gained, by test set; what is negative was forgotten."""
    return {name: after[name] - before[name] for name in before}


def most_forgotten(change: Mapping[str, float]) -> str | None:
    """The test set whose accuracy fell most, the first of equal ones; None if none fell."""
    least = min(change, key=change.__getitem__, default=None)
    return None if least is None or change[least] >= 0 else least


def accuracy_by_group(
    predictions: Sequence[str], references: Sequence[str], groups: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Group -> (right answers, answers), in the order in which groups first come.

    Raises:
        ValueError: there are more of one than of another, or none.
    """
    lengths = {len(predictions), len(references), len(groups)}
    if len(lengths) > 1 or not lengths - {0}:
        shown = f"{len(predictions)}, references: {len(references)}, groups: {len(groups)}"
        raise ValueError(f"predictions: {shown}, expected as many of each, and at least one")
    for name, words in (("predictions", predictions), ("references", references), ("groups", groups)):
        if wrong := [number for number, word in enumerate(words) if not isinstance(word, str)]:
            raise ValueError(f"{name}: {words[wrong[0]]!r} at {wrong[0]}, expected text")
    counts: dict[str, tuple[int, int]] = {}
    for predicted, right, group in zip(predictions, references, groups, strict=True):
        hits, total = counts.get(group, (0, 0))
        counts[group] = hits + (predicted.strip() == right.strip()), total + 1
    return counts
