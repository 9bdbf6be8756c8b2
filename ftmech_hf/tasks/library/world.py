"""People and what is true of them: drawn by chance, so that nothing of it can be guessed.

A person has a first and a last name, each of 64, a friend, and one of 32 values in each of eight relations. A value is
one word that says which relation it is of; guessing right by knowing the relation alone happens once in 32. All pairs
of names are divided by chance into two halves, and so that a model that was trained on one half has never met a person
of the other one.
"""

from __future__ import annotations

import functools
import itertools
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.schema import SPECIAL_TOKENS

Ids = NDArray[np.int64]
Half = Literal["pretraining", "domain"]

RELATIONS: dict[str, tuple[str, str]] = {
    "job": ("works", "trade"),
    "city": ("lives", "town"),
    "food": ("eats", "dish"),
    "drink": ("sips", "beverage"),
    "color": ("paints", "shade"),
    "animal": ("keeps", "pet"),
    "sport": ("plays", "game"),
    "music": ("hears", "tune"),
}
"""Relation -> two other words for it. Questions use the first, documents any of the three."""

NAMES, VALUES, WORDINGS, FACTS_EACH = 64, 32, 3, 2
"""First names, and last ones; values of a relation; words for it; and facts that a document tells."""

DOCUMENTS = len(RELATIONS) // FACTS_EACH
"""About each person; one of them names the friend as well."""

FRIEND, IS, END, ASK, TELL, UNKNOWN = "friend", "is", ".", "?", ":", "unknown"


def _syllables(first: str, second: str) -> tuple[str, ...]:
    return tuple(a + b for a, b in itertools.product(first.split(), second.split()))


FIRST = _syllables("Al Be Ca Do El Fa Gi Ha", "ra lin mon da ris vel to ny")
LAST = _syllables("Ker Lom Mar Nor Pel Rus Sol Tar", "ath beck dorn gard hall mann son wick")
VALUE_WORDS = tuple(f"{relation}{number}" for relation in RELATIONS for number in range(VALUES))
RELATION_WORDS = tuple(itertools.chain.from_iterable((relation, *others) for relation, others in RELATIONS.items()))
VOCABULARY = (
    *SPECIAL_TOKENS, FRIEND, IS, END, ASK, TELL, UNKNOWN, *FIRST, *LAST, *RELATION_WORDS, *VALUE_WORDS,
)  # fmt: skip

PLACE = {word: number for number, word in enumerate(VOCABULARY)}
FIRST_AT, LAST_AT, RELATION_AT, VALUE_AT = (PLACE[each[0]] for each in (FIRST, LAST, RELATION_WORDS, VALUE_WORDS))


class World(NamedTuple):
    """What is true of some people, and how documents tell it.

    Attributes:
        names: places in :data:`FIRST` and :data:`LAST`, (E, 2).
        values: of each relation, (E, 8), numbers below 32.
        friends: a person each, not themselves, (E,).
        order: of the relations in a person's documents, (E, 8): two in each.
        wording: of each relation, (E, 8), numbers below 3; 0 is the word that questions use.
        friend_in: which of a person's documents names the friend, (E,).
    """

    names: Ids
    values: Ids
    friends: Ids
    order: Ids
    wording: Ids
    friend_in: Ids

    def document_of(self, person: int, relation: int) -> int:
        """Which of a person's documents tells of a relation."""
        return int(np.flatnonzero(self.order[person] == relation)[0]) // FACTS_EACH


@functools.cache
def name_pairs(half: Half) -> Ids:
    """The pairs of names in one half of all, in an order by chance, (2048, 2)."""
    order = np.random.Generator(np.random.Philox(64)).permutation(NAMES * NAMES)
    chosen = order[: len(order) // 2] if half == "pretraining" else order[len(order) // 2 :]
    return np.stack(np.divmod(chosen, NAMES), axis=1)


def draw_world(rng: np.random.Generator, names: Ids) -> World:
    """Draw what is true of people of these names (E, 2); there must be at least two."""
    number, relations = len(names), len(RELATIONS)
    return World(
        names,
        rng.integers(0, VALUES, (number, relations)),
        (np.arange(number) + rng.integers(1, number, number)) % number,
        rng.random((number, relations)).argsort(axis=1),
        rng.integers(0, WORDINGS, (number, relations)),
        rng.integers(0, DOCUMENTS, number),
    )


class Place(NamedTuple):
    """Where the people of a world come from: which half of the names, from which of its pairs on, and how many."""

    half: Half
    first: int
    people: int


WORLDS: dict[str, Place] = {
    "known": Place("pretraining", 0, 200),
    "domain": Place("domain", 0, 600),
    "third": Place("domain", 600, 200),
}
"""People whose facts pretraining teaches by heart, those that fine-tuning is about, and others for training back."""


@functools.cache
def find_world(name: str, world_seed: int) -> World:
    """A world by its name; another seed draws other facts of the same people."""
    half, first, people = WORLDS[name]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([world_seed, list(WORLDS).index(name)])))
    return draw_world(rng, name_pairs(half)[first : first + people])
