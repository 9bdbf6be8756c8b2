"""Retrievers that compare words: BM25 and TF-IDF."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.retrieval.base import Query, Ranking, best_in_blocks, find_words


class Bm25Retriever:
    """BM25 as Lucene scores it, by ``bm25s``, which has the scores of all words ready (Lù, arXiv 2407.03618).

    Args:
        documents: texts.
        k1, b: of BM25.

    Raises:
        ValueError: ``bm25s`` is not installed.
    """

    def __init__(self, documents: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise ValueError("retriever: bm25 needs the package bm25s: pip install 'ftmech_hf[rag]'") from error
        tokens = [find_words(text) for text in documents]
        self.known = {word for words in tokens for word in words}
        self.index = bm25s.BM25(k1=k1, b=b)
        self.index.index(tokens, show_progress=False)
        self.number = len(documents)

    def __call__(self, queries: Sequence[Query], k: int) -> Ranking:
        """See :class:`ftmech_hf.retrieval.base.Retriever`; a question without a known word finds the first ones."""
        return best_in_blocks(queries, self.number, k, lambda some: self._score(queries[some]))

    def _score(self, queries: Sequence[Query]) -> NDArray[np.float64]:
        scores = np.zeros((len(queries), self.number))
        for row, query in enumerate(queries):
            if words := [word for word in find_words(query.text) if word in self.known]:
                scores[row] = self.index.get_scores(words)
        return scores


class TfidfRetriever:
    """Cosine of TF-IDF vectors, by scikit-learn.

    Args:
        documents: texts.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(analyzer=find_words)
        self.vectors = self.vectorizer.fit_transform(documents)

    def __call__(self, queries: Sequence[Query], k: int) -> Ranking:
        """See :class:`ftmech_hf.retrieval.base.Retriever`."""
        asked = self.vectorizer.transform([query.text for query in queries])
        across = self.vectors.T
        return best_in_blocks(queries, across.shape[1], k, lambda some: (asked[some] @ across).toarray())
