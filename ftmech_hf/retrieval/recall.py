"""How much of what questions need is among the documents that were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.retrieval.base import Query, Ranking


@dataclass(frozen=True)
class RecallResult:
    """How many of the gold documents of each question were found among the first k.

    Attributes:
        share: of the gold documents, float (Q,).
        all_gold: whether all of them, bool (Q,).
        first_at: place of the first gold document, from 1 on; 0 where none was found, (Q,).
    """

    share: NDArray[np.float64]
    all_gold: NDArray[np.bool_]
    first_at: NDArray[np.int64]

    @property
    def row(self) -> dict[str, float]:
        """Means: ``recall``, ``all_gold``, and ``mrr``, of one over the first place."""
        found = self.first_at > 0
        places = np.where(found, 1 / np.maximum(self.first_at, 1), 0.0)
        return {
            "recall": float(self.share.mean()),
            "all_gold": float(self.all_gold.mean()),
            "mrr": float(places.mean()),
        }


def recall_at(queries: Sequence[Query], ranking: Ranking, k: int) -> RecallResult:
    """Recall among the first ``k`` documents.

    Args:
        queries: with their gold documents.
        ranking: numbers of documents, best first, (Q, k or more).
        k: how many count.

    Raises:
        ValueError: fewer were asked for, or a question has no gold document.
    """
    if not 1 <= k <= ranking.shape[1]:
        raise ValueError(f"top_k: {k}, expected 1 to {ranking.shape[1]}, as many as were retrieved")
    if not all(query.gold for query in queries):
        raise ValueError("gold_ids: a question has none, expected a document for each to measure recall of")
    found = [np.isin(row[:k], query.gold) for query, row in zip(queries, ranking, strict=True)]
    number = np.array([len(set(query.gold)) for query in queries])
    hits = np.array([each.sum() for each in found])
    first = np.array([int(each.argmax()) + 1 if each.any() else 0 for each in found])
    return RecallResult(hits / number, hits == number, first)
