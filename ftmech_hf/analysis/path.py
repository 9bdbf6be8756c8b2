"""What lies on the lines base -> fine-tuned -> reversed? Linear mode connectivity (Frankle et al., arXiv 1912.05671).

Two models that compute the same thing in the same way are joined by a line without a barrier; two that found it
independently are not. The control is the line to a model of other origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PathResult:
    """Accuracies along a path of straight pieces.

    Attributes:
        positions: 0 at the first model, 1 at the second, and so on.
        accuracy: test set -> accuracy at every position.
        name: of the path.
    """

    positions: list[float]
    accuracy: dict[str, list[float]]
    name: str = "path"

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per test set and position."""
        return [
            {"path": self.name, "test_set": test_set, "position": position, "accuracy": value}
            for test_set, values in self.accuracy.items()
            for position, value in zip(self.positions, values, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """The barrier of each piece, by test set."""
        pieces = round(self.positions[-1])
        return {test_set: [self.barrier(test_set, piece) for piece in range(pieces)] for test_set in self.accuracy}

    def barrier(self, test_set: str, piece: int = 0) -> float:
        """How far accuracy falls below the straight line between the ends of a piece, at most; 0 without a barrier.

        Theirs is the rise of the error above the *mean* of the ends, which is the same for ends that are equally good.
        """
        return accuracy_barrier(self.positions, self.accuracy[test_set], piece)


def accuracy_barrier(positions: Sequence[float], accuracy: Sequence[float], piece: int = 0) -> float:
    """See :meth:`PathResult.barrier`.

    Raises:
        ValueError: the piece's ends are not among the positions.
    """
    where, values = np.asarray(positions), np.asarray(accuracy)
    inside = (where >= piece) & (where <= piece + 1)
    if piece not in where or piece + 1 not in where:
        raise ValueError(f"positions: {list(positions)} lack an end of piece {piece}")
    line = np.interp(where[inside], [piece, piece + 1], [values[where == piece][0], values[where == piece + 1][0]])
    return float((line - values[inside]).max())
