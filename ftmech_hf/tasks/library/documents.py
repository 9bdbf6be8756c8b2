"""What documents say, what is asked, and how it is answered: sentences, as token ids.

A fact is ``WORD FIRST LAST VALUE .``, in documents with one of three words for its relation, in answers with that of
questions. So an answer goes on as a document does, several facts are several sentences, and ``<eos>`` ends it. What no
document of a prompt tells is ``unknown``.

==================  ================================  =========================================================
question            words                             answer
==================  ================================  =========================================================
one fact            ``? city FIRST LAST``             ``city7 <eos>``
several facts       ``? city job food FIRST LAST :``  ``city FIRST LAST city7 . job FIRST LAST job3 . ... <eos>``
of the friend       ``? city friend FIRST LAST :``    ``friend FIRST LAST FIRST LAST . city FIRST LAST ... <eos>``
==================  ================================  =========================================================
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


def sentence(world: World, fact: Fact, *, known: bool = True, wording: int = 0) -> list[int]:
    """A fact in words, or that it is unknown."""
    said = value(world, fact) if known else [PLACE[UNKNOWN]]
    return [relation_word(fact.relation, wording), *name(world, fact.person), *said, PLACE[END]]


def facts_of(world: World, person: int, number: int) -> list[Fact]:
    """What one of a person's documents tells, in its order."""
    relations = world.order[person, FACTS_EACH * number : FACTS_EACH * (number + 1)]
    found = [Fact(person, int(relation)) for relation in relations]
    return [*found, Fact(person, FRIENDSHIP)] if world.friend_in[person] == number else found


def document(world: World, person: int, number: int) -> list[int]:
    """One of a person's documents, in token ids."""
    words: list[int] = []
    for fact in facts_of(world, person, number):
        wording = 0 if fact.relation == FRIENDSHIP else int(world.wording[fact])
        words += sentence(world, fact, wording=wording)
    return words


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
    *asked, said, _ = sentence(world, fact, known=known)
    return Question([PLACE[ASK], *asked], (fact,), [said, PLACE[EOS]])


def ask_several(world: World, person: int, relations: Sequence[int], known: Sequence[bool]) -> Question:
    """Ask for several relations of a person at once; each may be unknown."""
    facts = tuple(Fact(person, relation) for relation in relations)
    asked = [PLACE[ASK], *map(relation_word, relations), *name(world, person), PLACE[TELL]]
    return Question(asked, facts, tell(world, facts, known))


def ask_friend(world: World, person: int, relation: int) -> Question:
    """Ask for a relation of a person's friend: the answer names the friend first."""
    facts = (Fact(person, FRIENDSHIP), Fact(int(world.friends[person]), relation))
    asked = [PLACE[ASK], relation_word(relation), PLACE[FRIEND], *name(world, person), PLACE[TELL]]
    return Question(asked, facts, tell(world, facts, (True, True)))


def tell(world: World, facts: Sequence[Fact], known: Sequence[bool]) -> list[int]:
    """An answer in sentences."""
    words = [word for fact, each in zip(facts, known, strict=True) for word in sentence(world, fact, known=each)]
    return [*words[:-1], PLACE[EOS]]
