"""Retrievers: scores by hand, bounds that the oracle and chance give, recall counted by hand, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from ftmech_hf.retrieval import (
    RETRIEVERS,
    Bm25Retriever,
    DenseRetriever,
    OracleRetriever,
    Query,
    RandomRetriever,
    RetrieverConfig,
    TfidfRetriever,
    base,
    find_words,
    make_retriever,
    recall_at,
)

DOCUMENTS = [
    "Anna keeps bees.",
    "Anna lives in Oslo, and Oslo is cold.",
    "Ben keeps bees and goats and bees",
    "Nobody was here",
    "Cara lives in Rome",
]


def bm25_by_hand(documents: Sequence[str], question: str, k1: float, b: float) -> list[float]:
    """The formula, word by word: ln(1 + (N - n + .5) / (n + .5)) * f / (f + k1 (1 - b + b L / mean L))."""
    texts = [Counter(find_words(text)) for text in documents]
    mean = sum(map(Counter.total, texts)) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in find_words(question):
            holds = sum(word in each for each in texts)
            if holds and text[word]:
                idf = math.log(1 + (len(texts) - holds + 0.5) / (holds + 0.5))
                score += idf * text[word] / (text[word] + k1 * (1 - b + b * text.total() / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.4, 0.0), (2.0, 1.0)])
def test_bm25_orders_documents_as_its_formula_does(k1: float, b: float) -> None:
    retriever = Bm25Retriever(DOCUMENTS, k1=k1, b=b)
    for question in ("who keeps bees", "where does Anna live: Oslo?", "lives in Rome", "goats bees Anna"):
        by_hand = bm25_by_hand(DOCUMENTS, question, k1, b)
        expected = sorted(range(5), key=lambda place: (-round(by_hand[place], 5), place))
        assert retriever([Query(question)], 5)[0].tolist() == expected
    scores = retriever.index.get_scores(["keeps", "bees"])
    assert np.allclose(scores, bm25_by_hand(DOCUMENTS, "keeps bees", k1, b), atol=1e-5)
    assert not np.allclose(scores, bm25_by_hand(DOCUMENTS, "keeps bees", k1 + 1, b), atol=1e-5)  # what must fail


def test_a_question_of_unknown_words_finds_the_first_documents() -> None:
    for retriever in (Bm25Retriever(DOCUMENTS), TfidfRetriever(DOCUMENTS)):
        assert retriever([Query("zebra?"), Query("")], 2).tolist() == [[0, 1], [0, 1]]


def test_tfidf_is_the_cosine_of_weighted_counts() -> None:
    texts = [Counter(find_words(text)) for text in DOCUMENTS]
    words = sorted(set().union(*texts))
    idf = np.array([math.log(6 / (1 + sum(word in each for each in texts))) + 1 for word in words])
    vectors = np.array([[text[word] for word in words] for text in texts]) * idf
    question = np.array([Counter(["anna", "bees"])[word] for word in words]) * idf
    cosine = vectors @ question / np.linalg.norm(vectors, axis=1)
    assert TfidfRetriever(DOCUMENTS)([Query("Anna bees")], 5)[0].tolist() == np.argsort(-cosine, kind="stable").tolist()


def test_dense_takes_the_highest_cosine_whatever_the_lengths() -> None:
    vectors = {"a": [1.0, 0.0], "b": [30.0, 40.0], "c": [0.0, 0.1], "q": [0.3, 0.9], "zero": [0.0, 0.0]}
    retriever = DenseRetriever(["a", "b", "c"], lambda texts: np.array([vectors[text] for text in texts]))
    # Cosines by hand: a 0.32, b 0.95, c 0.95: 0.9487 for b (0.18 + 0.72) / 0.9487 = 0.9487, and c 0.9487.
    assert retriever([Query("q")], 3)[0].tolist()[-1] == 0
    assert retriever([Query("a")], 3)[0].tolist() == [0, 1, 2]  # a product alone would put b first
    with pytest.raises(ValueError, match="embedder: a vector is zero"):
        DenseRetriever(["zero"], lambda texts: np.array([vectors[text] for text in texts]))


def test_the_oracle_finds_all_and_chance_its_share() -> None:
    queries = [Query(str(number), (number % 50, (number + 7) % 50)) for number in range(400)]
    oracle, chance = OracleRetriever(50), RandomRetriever(50)
    found = oracle(queries, 5)
    assert recall_at(queries, found, 2).row == {"recall": 1.0, "all_gold": 1.0, "mrr": 1.0}
    assert all(len(set(row)) == 5 for row in found.tolist())
    by_chance = recall_at(queries, chance(queries, 5), 5)
    assert by_chance.row["recall"] == pytest.approx(5 / 50, abs=0.03)
    assert by_chance.row["all_gold"] == pytest.approx(5 * 4 / (50 * 49), abs=0.02)
    # A question's documents do not depend on the questions after it, and another seed draws others.
    assert (chance(queries[:3], 5) == chance(queries, 5)[:3]).all()
    assert (RandomRetriever(50, seed=1)(queries, 5) != chance(queries, 5)).any()
    with pytest.raises(ValueError, match="no gold document"):
        oracle([Query("who?")], 1)


@pytest.mark.parametrize("k", [1, 5, 48, 50])
def test_the_oracle_looks_at_no_more_documents_by_chance_than_it_needs(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds what it would find if it looked at all of them in their order by chance."""
    queries = [Query(str(number), ((number,), (number, 49, 3), (7, 7))[number % 3]) for number in range(30)]
    oracle = OracleRetriever(50, seed=4)
    expected = []
    for row, query in enumerate(queries):
        order = np.random.default_rng([4, row]).permutation(50).tolist()
        gold = list(dict.fromkeys(query.gold))
        expected.append([*gold, *(each for each in order if each not in gold)][:k])
    asked: list[int] = []
    by_chance = oracle.by_chance
    monkeypatch.setattr(oracle, "by_chance", lambda queries, k: asked.append(k) or by_chance(queries, k))
    assert oracle(queries, k).tolist() == expected
    assert asked == [min(50, k + 3)]


@pytest.mark.parametrize("name", ["bm25", "tfidf", "dense"])
def test_questions_are_ranked_in_blocks_that_memory_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([[1.0, text.count("e"), text.count("n"), text.count("o")] for text in texts])

    retriever = make_retriever(RetrieverConfig(retriever=name), DOCUMENTS, embed if name == "dense" else None)
    queries = [Query(text) for text in (*DOCUMENTS, "zebra", "bees", "Rome")]
    at_once = retriever(queries, 3)
    seen: list[tuple[int, ...]] = []
    best_of = base.best_of
    monkeypatch.setattr(base, "best_of", lambda scores, k: seen.append(scores.shape) or best_of(scores, k))
    for most, blocks in ((2**25, [8]), (15, [3, 3, 2]), (1, [1] * 8)):  # one question's scores at least
        seen.clear()
        monkeypatch.setattr(base, "MOST_SCORES", most)
        assert retriever(queries, 3).tolist() == at_once.tolist()
        assert seen == [(number, 5) for number in blocks]


def test_recall_by_hand() -> None:
    queries = [Query("", (3, 1)), Query("", (0,)), Query("", (9, 8, 8))]
    ranking = np.array([[1, 2, 3], [5, 6, 0], [1, 2, 3]])
    two, three = recall_at(queries, ranking, 2), recall_at(queries, ranking, 3)
    assert two.share.tolist() == [0.5, 0.0, 0.0]
    assert three.share.tolist() == [1.0, 1.0, 0.0]
    assert three.all_gold.tolist() == [True, True, False]
    assert three.first_at.tolist() == [1, 3, 0]
    assert three.row["mrr"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    with pytest.raises(ValueError, match="top_k: 4, expected 1 to 3"):
        recall_at(queries, ranking, 4)
    with pytest.raises(ValueError, match="gold_ids"):
        recall_at([Query("")], ranking[:1], 1)


def test_retrievers_are_made_by_their_names_and_what_is_wrong_is_named() -> None:
    for name in RETRIEVERS:
        embed = (lambda texts: np.eye(len(texts), 5) + 1e-3) if name == "dense" else None
        retriever = make_retriever(RetrieverConfig(retriever=name), DOCUMENTS, embed)
        assert retriever([Query("Anna", (1,))], 2).shape == (1, 2)
        with pytest.raises(ValueError, match="top_k: 6, expected 1 to 5"):
            retriever([Query("Anna", (1,))], 6)
    with pytest.raises(ValueError, match="retriever: unknown 'google'"):
        RetrieverConfig(retriever="google")
    with pytest.raises(ValueError, match="embedder: none"):
        make_retriever(RetrieverConfig(retriever="dense"), DOCUMENTS)
    with pytest.raises(ValueError, match="embedder: eye, but bm25 reads none, expected retriever dense"):
        make_retriever(RetrieverConfig(retriever="bm25"), DOCUMENTS, np.eye)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bm25_k1: -1"):
        RetrieverConfig(bm25_k1=-1)
    with pytest.raises(ValueError, match="retriever_seed: -1"):
        RetrieverConfig(retriever_seed=-1)
