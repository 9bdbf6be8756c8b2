"""Does an instrument find a circuit that is known, and nothing else?

Which parts of a compiled program do the work is known: the ground truth. An instrument gives every part a score; the
parts above a threshold, or as many of the highest as there are known ones, are what it found. The control is an
instrument that knows nothing: chosen at random, parts are right as often as known parts are frequent.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RecoveryResult:
    """What an instrument found, against the ground truth.

    Attributes:
        found, known, right: numbers of parts: found, there to be found, both.
        candidates: parts that were scored.
    """

    found: int
    known: int
    right: int
    candidates: int

    @property
    def precision(self) -> float:
        """Share of what was found that is right; 1 if nothing was found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of what is there that was found; 1 if nothing is there."""
        return self.right / self.known if self.known else 1.0

    @property
    def chance(self) -> float:
        """Precision of choosing at random: the control."""
        return self.known / self.candidates

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row."""
        return [self.summary()]

    def summary(self) -> dict[str, Any]:
        """The counts, precision, recall and the control."""
        counts = {"found": self.found, "known": self.known, "right": self.right, "candidates": self.candidates}
        return {**counts, "precision": self.precision, "recall": self.recall, "chance": self.chance}


def recovery(scores: Mapping[Any, float], known: Set[Hashable], *, above: float | None = None) -> RecoveryResult:
    """Compare what scores point to with the ground truth.

    Args:
        scores: part -> how much the instrument says it matters.
        known: the parts that do; all of them must have a score.
        above: parts with a higher score are found; None for as many of the highest as are known and all that the last
            of them ties with, whatever their order; without those that have no score, 0 or less.

    Raises:
        ValueError: a known part has no score.
    """
    if missing := [part for part in known if part not in scores]:
        raise ValueError(f"known: {missing[0]} has no score")
    if above is None:
        least = sorted(scores.values(), reverse=True)[len(known) - 1] if known else math.inf
        found = {part for part, score in scores.items() if score >= least and score > 0}
    else:
        found = {part for part, score in scores.items() if score > above}
    return RecoveryResult(len(found), len(known), len(found & known), len(scores))
