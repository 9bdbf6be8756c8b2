"""What all retrievers share: a question and its gold documents, the order of documents, words of a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Ranking = NDArray[np.int64]

MOST_SCORES = 2**25
"""Scores of questions and documents that are in memory at a time: 256 MiB, and twice as much while they are sorted."""

_WORD = re.compile(r"\w+")


def find_words(text: str) -> list[str]:
    """The words of a text, in lower case: runs of letters, digits and underscores."""
    return _WORD.findall(text.lower())


class Query(NamedTuple):
    """A question, and the documents that answer it.

    Attributes:
        text: of the question.
        gold: numbers of the documents that are needed, each; only ``oracle`` and measures of recall look at them.
    """

    text: str
    gold: tuple[int, ...] = ()


class Retriever(Protocol):
    """What finds documents."""

    def __call__(self, queries: Sequence[Query], k: int) -> Ranking:
        """Numbers of the ``k`` best documents of each question, best first, (Q, k)."""
        ...


RETRIEVERS = ("bm25", "tfidf", "dense", "oracle", "random")
"""What a retriever is called in settings."""


@dataclass(frozen=True, kw_only=True)
class RetrieverConfig:
    """Which retriever, and its settings."""

    retriever: str = field(default="bm25", metadata={"help": "bm25, tfidf, dense, oracle or random"})
    bm25_k1: float = field(default=1.5, metadata={"help": "of bm25: how soon a word that comes again counts no more"})
    bm25_b: float = field(default=0.75, metadata={"help": "of bm25: how much long documents are marked down"})
    retriever_seed: int = field(default=0, metadata={"help": "of random documents, and of those that fill up gold"})

    def __post_init__(self) -> None:
        if self.retriever not in RETRIEVERS:
            raise ValueError(f"retriever: unknown {self.retriever!r}, expected one of {', '.join(RETRIEVERS)}")
        if self.bm25_k1 < 0 or not 0 <= self.bm25_b <= 1:
            raise ValueError(f"bm25_k1: {self.bm25_k1}, bm25_b: {self.bm25_b}, expected 0 or more, and 0 to 1")
        if self.retriever_seed < 0:
            raise ValueError(f"retriever_seed: {self.retriever_seed} is negative, expected 0 or more")


def check_embedder(config: RetrieverConfig, embedder: object | None, *, is_needed: bool = True) -> None:
    """Refuse an encoder that no retriever reads, and a dense retriever without one.

    Args:
        config: of the retriever.
        embedder: the encoder, or its name; None if there is none.
        is_needed: whether anything is to be retrieved.

    Raises:
        ValueError: names the encoder, and what was expected.
    """
    if embedder and config.retriever != "dense":
        name = getattr(embedder, "__name__", embedder)
        raise ValueError(f"embedder: {name}, but {config.retriever} reads none, expected retriever dense")
    if config.retriever == "dense" and not embedder and is_needed:
        raise ValueError("embedder: none, expected a sentence-transformers model for retriever: dense")


def best_of(scores: NDArray[np.floating], k: int) -> Ranking:
    """Places of the ``k`` highest scores of each row (Q, N), highest first; of equal ones the earlier document.

    Raises:
        ValueError: there are not so many documents.
    """
    check_k(k, scores.shape[1])
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def best_in_blocks(
    queries: Sequence[Query], documents: int, k: int, score: Callable[[slice], NDArray[np.floating]]
) -> Ranking:
    """:func:`best_of` for so many questions at a time that memory holds their scores.

    Args:
        queries: all questions.
        documents: how many there are.
        k: how many are found.
        score: some of the questions, by their places -> their scores, (questions, documents).

    Raises:
        ValueError: there are not so many documents.
    """
    check_k(k, documents)
    size = max(1, MOST_SCORES // documents)
    starts = range(0, max(1, len(queries)), size)
    return np.concatenate([best_of(score(slice(start, start + size)), k) for start in starts])


def check_k(k: int, documents: int) -> None:
    """Make sure that so many documents can be found.

    Raises:
        ValueError: they cannot.
    """
    if not 1 <= k <= documents:
        raise ValueError(f"top_k: {k}, expected 1 to {documents}, the number of documents")
