"""Retrievers that search nothing: one that is told what is needed, and one that knows nothing. Bounds of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ftmech_hf.retrieval.base import Query, Ranking, check_k


class RandomRetriever:
    """Documents by chance; those of a question depend on its place among the questions and the seed alone.

    Args:
        documents: how many there are.
        seed: of the choice.
    """

    def __init__(self, documents: int, *, seed: int = 0) -> None:
        self.documents, self.seed = documents, seed

    def __call__(self, queries: Sequence[Query], k: int) -> Ranking:
        """See :class:`ftmech_hf.retrieval.base.Retriever`."""
        check_k(k, self.documents)
        return np.stack(
            [
                np.random.default_rng([self.seed, row]).permutation(self.documents)[:k].astype(np.int64)
                for row in range(len(queries))
            ]
        )


class OracleRetriever:
    """The gold documents first, in their order, and others by chance after them.

    Args:
        documents: how many there are.
        seed: of the choice of the others.
    """

    def __init__(self, documents: int, *, seed: int = 0) -> None:
        self.documents, self.by_chance = documents, RandomRetriever(documents, seed=seed)

    def __call__(self, queries: Sequence[Query], k: int) -> Ranking:
        """See :class:`ftmech_hf.retrieval.base.Retriever`.

        Raises:
            ValueError: it is not said of a question which documents it needs.
        """
        check_k(k, self.documents)
        found = []
        enough = k + max((len(query.gold) for query in queries), default=0)  # k are left without the gold ones
        by_chance = self.by_chance(queries, min(self.documents, enough))
        for query, others in zip(queries, by_chance, strict=True):
            if not query.gold:
                raise ValueError(f"retriever: oracle, but no gold document is named of the question {query.text!r}")
            gold = list(dict.fromkeys(query.gold))
            found.append([*gold, *(each for each in others.tolist() if each not in gold)][:k])
        return np.array(found, np.int64)
