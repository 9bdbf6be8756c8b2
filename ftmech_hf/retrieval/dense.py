"""A retriever that compares vectors of any model, by cosine: one product of matrices, for up to 100,000 documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.retrieval.base import Query, Ranking, best_in_blocks

Embed = Callable[[Sequence[str]], NDArray[np.floating]]
"""Texts -> a vector each, (texts, D)."""


class DenseRetriever:
    """The documents whose vectors have the highest cosine with the question's.

    Args:
        documents: texts.
        embed: makes the vectors of documents and of questions.
    """

    def __init__(self, documents: Sequence[str], embed: Embed) -> None:
        self.embed, self.vectors = embed, _of_length_one(embed(documents))

    def __call__(self, queries: Sequence[Query], k: int) -> Ranking:
        """See :class:`ftmech_hf.retrieval.base.Retriever`."""
        asked = _of_length_one(self.embed([query.text for query in queries]))
        return best_in_blocks(queries, len(self.vectors), k, lambda some: asked[some] @ self.vectors.T)


def _of_length_one(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise ValueError("embedder: a vector is zero or no number, expected one with a direction for every text")
    return vectors / lengths
