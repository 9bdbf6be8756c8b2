"""Which documents answer a question: retrievers behind one protocol, and how much of what is needed they find."""

from ftmech_hf.retrieval.base import RETRIEVERS, Query, Retriever, RetrieverConfig, check_embedder, find_words
from ftmech_hf.retrieval.dense import DenseRetriever, Embed
from ftmech_hf.retrieval.known import OracleRetriever, RandomRetriever
from ftmech_hf.retrieval.lexical import Bm25Retriever, TfidfRetriever
from ftmech_hf.retrieval.recall import RecallResult, recall_at


def make_retriever(config: RetrieverConfig, documents: list[str], embed: Embed | None = None) -> Retriever:
    """A retriever over some documents, by its name.

    Args:
        config: which, and its settings.
        documents: texts.
        embed: texts -> vectors, for ``dense``.

    Raises:
        ValueError: see :func:`~ftmech_hf.retrieval.base.check_embedder`; or a package is not there.
    """
    check_embedder(config, embed)
    if config.retriever == "bm25":
        return Bm25Retriever(documents, k1=config.bm25_k1, b=config.bm25_b)
    if config.retriever == "tfidf":
        return TfidfRetriever(documents)
    if config.retriever == "random":
        return RandomRetriever(len(documents), seed=config.retriever_seed)
    if config.retriever == "oracle":
        return OracleRetriever(len(documents), seed=config.retriever_seed)
    assert embed is not None
    return DenseRetriever(documents, embed)


__all__ = [
    "RETRIEVERS",
    "Bm25Retriever",
    "DenseRetriever",
    "Embed",
    "OracleRetriever",
    "Query",
    "RandomRetriever",
    "RecallResult",
    "Retriever",
    "RetrieverConfig",
    "TfidfRetriever",
    "check_embedder",
    "find_words",
    "make_retriever",
    "recall_at",
]
