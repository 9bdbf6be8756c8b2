"""What documents say, what is asked, and how it is answered: sentences, as token ids.

A document tells facts, ``FIRST LAST WORD VALUE .``, where the word is one of three for the relation. An answer tells
each as ``FIRST LAST RELATION is VALUE``, so that several facts are several sentences, and ``<eos>`` ends it. What no
document of a prompt tells is ``unknown``.

==================  ================================  ============================================================
question            words                             answer
==================  ================================  ============================================================
one fact            ``? FIRST LAST city is``          ``city7 <eos>``
several facts       ``? FIRST LAST city job food :``  ``FIRST LAST city is city7 . FIRST LAST job is ... <eos>``
of the friend       ``? FIRST LAST friend city :``    ``FIRST LAST friend is FIRST LAST . FIRST LAST ... <eos>``
==================  ================================  ============================================================

Where a fact is asked for and where it ends, the word is always the same, and the name and the relation stand at fixed
places before it: models learn to read this sooner than a relation before a name, or a question that ends in a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ftmech_hf.tasks.library.world import (
    ASK,
    DOCUMENTS,
    END,
    FACTS_EACH,
    FIRST_AT,
    FRIEND,
    IS,
    LAST_AT,
    PLACE,
    RELATION_AT,
    TELL,
    UNKNOWN,
    VALUE_AT,
    VALUES,
    WORDINGS,
    World,
)
from ftmech_hf.tasks.schema import EOS

FRIENDSHIP = -1
"""The relation of a person to their friend, where one of the eight is meant elsewhere."""


class Fact(NamedTuple):
    """What is true of a person in a relation; :data:`FRIENDSHIP` is one too."""

    person: int
    relation: int


class Question(NamedTuple):
    """A question and its answer.

    Attributes:
        asked: token ids that end where the answer begins.
        facts: what a complete answer tells, in its order.
        answer: token ids.
    """

    asked: list[int]
    facts: tuple[Fact, ...]
    answer: list[int]


def name(world: World, person: int) -> list[int]:
    """The two words of a person's name."""
    first, last = world.names[person]
    return [FIRST_AT + int(first), LAST_AT + int(last)]


def relation_word(relation: int, wording: int = 0) -> int:
    """A word for a relation."""
    return PLACE[FRIEND] if relation == FRIENDSHIP else RELATION_AT + WORDINGS * relation + wording


def value(world: World, fact: Fact) -> list[int]:
    """What is true: one word, or the name of the friend."""
    if fact.relation == FRIENDSHIP:
        return name(world, int(world.friends[fact.person]))
    return [VALUE_AT + VALUES * fact.relation + int(world.values[fact])]


def told(world: World, fact: Fact) -> list[int]:
    """A fact as documents tell it."""
    wording = 0 if fact.relation == FRIENDSHIP else int(world.wording[fact])
    return [*name(world, fact.person), relation_word(fact.relation, wording), *value(world, fact), PLACE[END]]


def answered(world: World, fact: Fact, *, known: bool = True) -> list[int]:
    """A fact as answers tell it, or that it is unknown."""
    said = value(world, fact) if known else [PLACE[UNKNOWN]]
    return [*name(world, fact.person), relation_word(fact.relation), PLACE[IS], *said, PLACE[END]]


def facts_of(world: World, person: int, number: int) -> list[Fact]:
    """What one of a person's documents tells, in its order."""
    relations = world.order[person, FACTS_EACH * number : FACTS_EACH * (number + 1)]
    found = [Fact(person, int(relation)) for relation in relations]
    return [*found, Fact(person, FRIENDSHIP)] if world.friend_in[person] == number else found


def document(world: World, person: int, number: int) -> list[int]:
    """One of a person's documents, in token ids."""
    return [word for fact in facts_of(world, person, number) for word in told(world, fact)]


def all_documents(world: World) -> list[list[int]]:
    """The documents of a world: number ``4 * person + n`` is a person's n-th."""
    return [document(world, person, number) for person in range(len(world.names)) for number in range(DOCUMENTS)]


def gold_document(world: World, fact: Fact) -> int:
    """The number of the document that tells a fact."""
    relation = fact.relation
    within = int(world.friend_in[fact.person]) if relation == FRIENDSHIP else world.document_of(fact.person, relation)
    return DOCUMENTS * fact.person + within


def ask_one(world: World, fact: Fact, *, known: bool = True) -> Question:
    """Ask for one of the eight relations; the answer is a word."""
    *asked, said, _ = answered(world, fact, known=known)
    return Question([PLACE[ASK], *asked], (fact,), [said, PLACE[EOS]])


def ask_several(world: World, person: int, relations: Sequence[int], known: Sequence[bool]) -> Question:
    """Ask for several relations of a person at once; each may be unknown."""
    facts = tuple(Fact(person, relation) for relation in relations)
    asked = [PLACE[ASK], *name(world, person), *map(relation_word, relations), PLACE[TELL]]
    return Question(asked, facts, tell(world, facts, known))


def ask_friend(world: World, person: int, relation: int) -> Question:
    """Ask for a relation of a person's friend: the answer names the friend first."""
    facts = (Fact(person, FRIENDSHIP), Fact(int(world.friends[person]), relation))
    asked = [PLACE[ASK], *name(world, person), PLACE[FRIEND], relation_word(relation), PLACE[TELL]]
    return Question(asked, facts, tell(world, facts, (True, True)))


def tell(world: World, facts: Sequence[Fact], known: Sequence[bool]) -> list[int]:
    """An answer in sentences."""
    words = [word for fact, each in zip(facts, known, strict=True) for word in answered(world, fact, known=each)]
    return [*words[:-1], PLACE[EOS]]
