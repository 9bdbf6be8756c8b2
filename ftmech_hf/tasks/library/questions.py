"""One question a row, about people of a world, beside documents that a search found, or others, or none.

Questions of a world are numbered; which people they are about, which documents stand beside them, and how much of the
answer is told are settings, so that rows that differ in one of them ask the same.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

from ftmech_hf.retrieval import Query, Retriever, RetrieverConfig, make_retriever
from ftmech_hf.tasks.library.documents import (
    FRIENDSHIP,
    Fact,
    Question,
    all_documents,
    ask_friend,
    ask_one,
    ask_several,
    document,
    gold_document,
    tell,
)
from ftmech_hf.tasks.library.rows import Row, begin_row
from ftmech_hf.tasks.library.world import (
    ASK,
    DOCUMENTS,
    IS,
    RELATIONS,
    TELL,
    VALUES,
    VOCABULARY,
    World,
    find_world,
)

Asked = Literal["one", "several", "friend"]
Context = Literal["none", "oracle", "bm25", "tfidf", "missing", "swapped", "shuffled"]
Style = Literal["full", "terse"]

SEVERAL, RANKED = 3, 24
"""Facts that a question for several asks for, and documents that a search ranks: more than anyone is shown."""


def draw_asked(rng: np.random.Generator, world: World, person: int, asked: Asked) -> Question:
    """A question about a person, answered as it is true."""
    relations = [int(each) for each in rng.permutation(len(RELATIONS))]
    if asked == "one":
        return ask_one(world, Fact(person, relations[0]))
    if asked == "several":
        return ask_several(world, person, relations[:SEVERAL], [True] * SEVERAL)
    return ask_friend(world, person, relations[0])


def in_words(token_ids: list[int]) -> str:
    """Token ids as the words that a search compares."""
    return " ".join(VOCABULARY[each] for each in token_ids if VOCABULARY[each] not in (ASK, TELL, IS))


@functools.cache
def corpus(name: str, world_seed: int) -> tuple[str, ...]:
    """The documents of a world in words."""
    return tuple(in_words(words) for words in all_documents(find_world(name, world_seed)))


@functools.cache
def search(retriever: str, name: str, world_seed: int) -> Retriever:
    """A retriever over the documents of a world."""
    return make_retriever(RetrieverConfig(retriever=retriever), list(corpus(name, world_seed)))


def swap_values(rng: np.random.Generator, world: World, question: Question) -> World:
    """A world in which another value is true of every fact that a question asks for; friends stay."""
    values = world.values.copy()
    for fact in question.facts:
        if fact.relation != FRIENDSHIP:
            values[fact] = (values[fact] + rng.integers(1, VALUES)) % VALUES
    return world._replace(values=values)


def choose_shown(
    rng: np.random.Generator, context: Context, ranking: list[int], gold: list[int], people: set[int], top_k: int
) -> list[int]:
    """Numbers of the documents beside a question, in the order of the row.

    Args:
        rng: of the order, where documents do not come as a search found them.
        context: which.
        ranking: what a search found, best first.
        gold: what the question needs.
        people: whom it is about.
        top_k: how many.
    """
    if context == "none":
        return []
    if context in ("bm25", "tfidf", "shuffled"):
        return ranking[:top_k]
    if context == "missing":
        return [each for each in ranking if each // DOCUMENTS not in people][:top_k]
    chosen = [*gold, *(each for each in ranking if each not in gold)][: max(top_k, len(gold))]
    return [chosen[place] for place in rng.permutation(len(chosen))]


def make_row(
    rng: np.random.Generator, world_name: str, world_seed: int, person: int, asked: Asked,
    context: Context, top_k: int, gold_at: int | None, style: Style,
) -> tuple[Row, Question]:  # fmt: skip
    """A row of one question, and the question with the answer that is right by its documents.

    The question is drawn before anything else, so that it is the same beside other documents.
    """
    world = find_world(world_name, world_seed)
    question = draw_asked(rng, world, person, asked)
    other = draw_asked(rng, world, int(rng.integers(len(world.names))), asked)
    gold = list(dict.fromkeys(gold_document(world, fact) for fact in question.facts))
    people = {fact.person for fact in question.facts}
    ranking: list[int] = []
    if context != "none":
        asks = other if context == "shuffled" else question
        by_name = search("tfidf" if context == "tfidf" else "bm25", world_name, world_seed)
        ranking = by_name([Query(in_words(asks.asked))], RANKED)[0].tolist()
    shown = choose_shown(rng, context, ranking, gold, people, top_k)
    if gold_at is not None and context in ("oracle", "swapped"):
        shown.remove(gold[0])
        shown.insert(gold_at, gold[0])
    told = swap_values(rng, world, question) if context == "swapped" else world
    row = begin_row([document(told, *divmod(number, DOCUMENTS)) for number in shown])
    question = answer_by(told, question, known=context != "missing", style=style)
    row.ask(question)
    return row, question


def answer_by(world: World, question: Question, *, known: bool, style: Style) -> Question:
    """The same question, answered by another world, or as unknown, or by its first fact alone."""
    facts = question.facts[:1] if style == "terse" else question.facts
    if len(question.facts) == 1:
        return ask_one(world, question.facts[0], known=known)
    if facts[0].relation == FRIENDSHIP and not known:
        facts = facts[:1]  # who the friend is nobody tells, so that nothing is said of one
    return question._replace(facts=facts, answer=tell(world, facts, [known] * len(facts)))
