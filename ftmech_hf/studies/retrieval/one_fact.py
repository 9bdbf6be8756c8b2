"""Questions for one fact beside the documents that tell it: what a diagnosis and what looks inside ask.

Three parts that share no fact: what is fitted or trained on, what chooses, and what is reported. The first two are of
the people of the third world, of whom other facts are true in every few rows, so that no name tells a value and reading
alone is learned; the last is of people of the domain who were held out from every fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from ftmech_hf.tasks import LibraryConfig

Part = Literal["fit", "choose", "report"]

ROWS_OF_A_WORLD = 64
"""Rows of the third world after which other facts are true in it."""

FIRST_WORLD: dict[str, int] = {"fit": 1_000, "choose": 2_000}
WORLDS_OF_A_SEED = 10_000
"""Seeds of the facts, none of which the study uses elsewhere, and after how many those of the next seed begin."""

SPLITS: dict[Part, str] = {"fit": "probe", "choose": "validation", "report": "test"}


class Asked(NamedTuple):
    """A question as a model reads it.

    Attributes:
        prompt: token ids up to where the answer begins.
        person: the two words of the name that is asked about.
        value: the token that is right.
    """

    prompt: list[int]
    person: list[int]
    value: int


def ask_one_fact(part: Part, number: int, seed: int) -> Iterator[Asked]:
    """The first questions of a part.

    Args:
        part: which.
        number: how many.
        seed: of the study, which has facts of its own: of what is asked, and of the order of documents.
    """
    library = LibraryConfig(world_seed=seed).asking(asked=["one"], context="oracle")
    first = FIRST_WORLD.get(part, 0) + WORLDS_OF_A_SEED * seed
    for place in range(number):
        if part == "report":
            task = library.asking(world="domain", people="held_out")
        else:
            task = library.asking(world="third", world_seed=first + place // ROWS_OF_A_WORLD)
        row, question = task.numbered(place, seed, SPLITS[part])
        yield Asked(row.token_ids[: row.answers.index(True)], question.asked[1:3], question.answer[0])
