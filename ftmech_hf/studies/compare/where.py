"""Where does the change of the weights lie? The base with the change of one place alone, beside edits at random.

A large change of a matrix may change no prediction, and a small one many. So each place's change is made alone, and
beside it the same change turned at random: of equal norm and singular values in the same matrices, without its meaning
(:mod:`ftmech_hf.models.directions`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ftmech_hf.analysis.output_difference import compare_outputs
from ftmech_hf.analysis.restoring import ALL, EVERYTHING, Part, WeightChange, find_places, replaced
from ftmech_hf.studies.compare.texts import Windows

DRAWS = 2
"""Random edits beside each place's."""

MOST_WINDOWS = 16


@dataclass(frozen=True)
class PlaceEffect:
    """What the change of one place does alone.

    Attributes:
        place: its name.
        size: share of the squared norm of the whole change.
        kl: KL(base with it || base) per token, nats.
        by_chance: the same of edits of its norm and singular values, turned at random.
    """

    place: str
    size: float
    kl: float
    by_chance: Sequence[float]

    def row(self) -> dict[str, Any]:
        """As the table has it: a score beside the highest of the random edits."""
        return {"kind": "place of the change", "what": self.place, "score": self.kl, "null_score": max(self.by_chance),
                "size": self.size}  # fmt: skip


NEARLY = 0.9
"""Share of the largest effect from which a place does nearly all that any does."""


def main_place(effects: Sequence[PlaceEffect]) -> PlaceEffect | None:
    """The place with the smallest change that does nearly as much as any; None if none does more than at random.

    A block does what its MLP does, if the change is there, and all blocks together what one of them does.
    """
    most = max((each.kl for each in effects), default=0.0)
    telling = [each for each in effects if each.kl >= NEARLY * most and each.kl > max(each.by_chance)]
    return min(telling, key=lambda each: each.size, default=None)


def place_effects(
    base: PreTrainedModel, finetuned: PreTrainedModel, windows: Windows, *, tokens: int, seed: int
) -> list[PlaceEffect]:
    """What the change of each place does alone, those that do most first; none where nothing changed.

    Args:
        base, finetuned: of the same parameters; both are as they were at the end.
        windows: texts, of which the first are read.
        tokens: how many ids are tokens of the vocabulary.
        seed: of the chance by which edits are turned.
    """
    change = WeightChange(base, finetuned, find_places(finetuned))
    few = Windows(*(each[:MOST_WINDOWS] for each in windows))
    edited = copy.deepcopy(base)

    def moved(part: Part, seed: int | None = None) -> float:
        with replaced(edited, change.only(part, seed=seed)):
            return compare_outputs(base, {"": edited}, *few, tokens=tokens)[""].mean_kl

    return sorted(
        (
            PlaceEffect(place, change.size(Part(place, ALL)), moved(Part(place, ALL)),
                        [moved(Part(place, ALL), seed * DRAWS + draw) for draw in range(DRAWS)])
            for place in change.places if place != EVERYTHING
        ),
        key=lambda each: -each.kl,
    )  # fmt: skip
