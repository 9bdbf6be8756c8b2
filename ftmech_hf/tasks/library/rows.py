"""Rows of pretraining: documents and questions about them, about a world that is learned by heart, and about neither.

What a question may rest on is a :class:`Shelf`: people, and the documents of theirs that the row shows. Facts of most
rows are drawn for that row alone, so that nothing but reading answers them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.library.documents import (
    FRIENDSHIP,
    Fact,
    Question,
    ask_friend,
    ask_one,
    ask_several,
    document,
    facts_of,
)
from ftmech_hf.tasks.library.world import (
    DOCUMENTS,
    NAMES,
    PLACE,
    RELATIONS,
    WORLDS,
    Ids,
    World,
    draw_world,
    find_world,
    name_pairs,
)
from ftmech_hf.tasks.schema import BOS

PEOPLE = 4
"""Of a row: somebody, one of the same first name, one of the same last name, and one of another."""

KINDS = {"fresh": 0.60, "heart": 0.15, "agreeing": 0.10, "contradicting": 0.05, "missing": 0.10}
"""Shares of rows: facts of the row alone; the known world without documents, with its documents, and with documents
that say something else of it; and questions about somebody of whom no document tells."""

SHOWN, ROOM = 4, 96
"""Documents of a row and its tokens, at most."""

ONE_ROOM, SEVERAL_ROOM, FRIEND_ROOM = 7, 25, 19
"""Tokens that a question and its answer take, of several facts at most."""

UNASKED = 0.20
"""Share of questions about one fact whatever documents tell, and of those about several of which one is another."""


class Shelf(NamedTuple):
    """What a row shows and may ask about.

    Attributes:
        world: of its people.
        people: those of the world that the row is about.
        shown: person and number of each document, in the order of the row.
    """

    world: World
    people: tuple[int, ...]
    shown: tuple[tuple[int, int], ...]

    @property
    def told(self) -> list[Fact]:
        """The facts that its documents tell, in order of people and relations."""
        return sorted({fact for person, number in self.shown for fact in facts_of(self.world, person, number)})


class Row(NamedTuple):
    """Token ids of a row, and which of them are answers."""

    token_ids: list[int]
    answers: list[bool]

    def add(self, words: list[int], *, is_answer: bool = False) -> None:
        """Write on."""
        self.token_ids.extend(words)
        self.answers.extend([is_answer] * len(words))

    def ask(self, question: Question) -> None:
        """Write a question and its answer."""
        self.add(question.asked)
        self.add(question.answer, is_answer=True)


def begin_row(documents: list[list[int]]) -> Row:
    """A row of documents alone."""
    row = Row([PLACE[BOS]], [False])
    for words in documents:
        row.add(words)
    return row


@functools.cache
def _beside(column: int) -> tuple[NDArray[np.int64], ...]:
    """Of each first (0) or last (1) name, places of the pairs of pretraining with it, not those of the known world."""
    known = WORLDS["known"].people
    pairs = name_pairs("pretraining")[known:]
    return tuple(np.flatnonzero(pairs[:, column] == each) + known for each in range(NAMES))


def similar_names(rng: np.random.Generator, number: int) -> Ids:
    """Names of so many people and three others each, (4 * number, 2), none of the known world: see :data:`PEOPLE`."""
    pairs, known = name_pairs("pretraining"), WORLDS["known"].people
    chosen = np.empty((number, PEOPLE), np.int64)
    for row, one in enumerate(rng.integers(known, len(pairs), number)):
        chosen[row, 0] = one
        for column in (0, 1):
            same = _beside(column)[pairs[one, column]]
            chosen[row, 1 + column] = rng.choice(same[same != one])
        other = int(rng.integers(known, len(pairs)))
        while other in chosen[row, :3]:
            other = int(rng.integers(known, len(pairs)))
        chosen[row, 3] = other
    return pairs[chosen.ravel()]


def draw_fresh(rng: np.random.Generator, number: int) -> World:
    """A world of four people for each of so many rows, who are friends of each other.

    Their documents of one number tell of the same relations, so that it takes the names to tell them apart.
    """
    world = draw_world(rng, similar_names(rng, number))
    within = (np.arange(PEOPLE) + rng.integers(1, PEOPLE, (number, PEOPLE))) % PEOPLE
    friends = (PEOPLE * np.arange(number)[:, None] + within).ravel()
    return world._replace(friends=friends, order=np.repeat(world.order[::PEOPLE], PEOPLE, axis=0))


def choose_documents(rng: np.random.Generator, number: int, *, about: bool = True) -> list[tuple[int, int]]:
    """Which of four people's documents a row shows, person and number of each.

    Half of the rows are of documents about three of them, two of them about the first; the rest are of the first
    person's alone, as a search by name finds them.

    Args:
        rng: the only source of chance.
        number: how many.
        about: whether any are about the first person; else they are about the other three, of whom one has the same
            first name and one the same last name.
    """
    own = [int(each) for each in rng.permutation(DOCUMENTS)]
    pool = [(0, each) for each in own]
    one, other, third = (int(person) for person in rng.permutation([1, 2, 3]))
    if not about:
        pool = [(one, own[0]), (other, own[0]), (third, own[0]), (one, own[1])]
        return [pool[place] for place in rng.permutation(len(pool))[:number]]
    if rng.random() < 0.5:
        pool = [(0, own[0]), (one, own[0]), (0, own[1]), (other, own[1])]
    return [pool[place] for place in rng.permutation(number)]


def draw_shelf(rng: np.random.Generator, world: World, people: tuple[int, ...], *, about: bool = True) -> Shelf:
    """Documents of four people, one to :data:`SHOWN` of them, more often many; see :func:`choose_documents`."""
    number = int(rng.choice(SHOWN, p=np.arange(1, SHOWN + 1) / (SHOWN * (SHOWN + 1) / 2))) + 1
    shown = tuple((people[person], each) for person, each in choose_documents(rng, number, about=about))
    return Shelf(world, people, shown)


def draw_question(rng: np.random.Generator, shelf: Shelf, room: int) -> Question:
    """A question that fits into ``room`` tokens and that a shelf answers, or leaves open."""
    world, told = shelf.world, shelf.told
    known = [fact for fact in told if fact.relation != FRIENDSHIP]
    kind = rng.random()
    if kind < 0.15 and room >= FRIEND_ROOM:
        friends = {fact.person: int(world.friends[fact.person]) for fact in told if fact.relation == FRIENDSHIP}
        if hops := [(one, fact.relation) for one, other in friends.items() for fact in known if fact.person == other]:
            return ask_friend(world, *hops[rng.integers(len(hops))])
    person = known[rng.integers(len(known))].person
    if kind < 0.40 and room >= SEVERAL_ROOM:
        there = [fact.relation for fact in known if fact.person == person]
        chosen = [int(each) for each in rng.permutation(there)[:3]]
        if rng.random() < UNASKED:
            chosen[rng.integers(len(chosen))] = int(rng.choice(sorted(set(range(len(RELATIONS))) - set(chosen))))
        return ask_several(world, person, chosen, [each in there for each in chosen])
    if rng.random() < UNASKED:
        fact = Fact(int(rng.choice(shelf.people)), int(rng.integers(len(RELATIONS))))
        return ask_one(world, fact, known=fact in told)
    return ask_one(world, known[rng.integers(len(known))])


def draw_missing(rng: np.random.Generator, shelf: Shelf) -> Question:
    """A question about the first of a shelf's people, of whom no document tells, though others have their names.

    Every other one is for what a document tells of somebody else.
    """
    relations = [fact.relation for fact in shelf.told if fact.relation != FRIENDSHIP]
    relation = rng.choice(relations) if rng.random() < 0.5 else rng.integers(len(RELATIONS))
    return ask_one(shelf.world, Fact(shelf.people[0], int(relation)), known=False)


def draw_row(rng: np.random.Generator, kind: str, fresh: World, first: int, world_seed: int) -> Row:
    """A row of pretraining.

    Args:
        rng: the only source of chance.
        kind: one of :data:`KINDS`.
        fresh: the world of facts that are drawn for rows alone.
        first: the first of the row's four people in it.
        world_seed: of the known world.
    """
    known, own = find_world("known", world_seed), tuple(range(first, first + PEOPLE))
    if kind == "heart":
        row = begin_row([])
        while len(row.token_ids) + ONE_ROOM <= ROOM:
            fact = Fact(int(rng.integers(len(known.names))), int(rng.integers(len(RELATIONS))))
            row.ask(ask_one(known, fact))
        return row
    world, people = fresh, own
    if kind in ("agreeing", "contradicting"):
        world = known if kind == "agreeing" else draw_world(rng, known.names)
        one = int(rng.integers(len(known.names)))
        others = rng.choice([each for each in range(len(known.names)) if each != one], 3, replace=False)
        people = (one, *(int(each) for each in others))
    shelf = draw_shelf(rng, world, people, about=kind != "missing")
    row = begin_row([document(world, *each) for each in shelf.shown])
    # What was asked may be asked again: were it not, who counts what the answers so far leave would guess the next one
    # without reading whom it is about.
    while (room := ROOM - len(row.token_ids)) >= ONE_ROOM:
        row.ask(draw_missing(rng, shelf) if kind == "missing" else draw_question(rng, shelf, room))
    return row
