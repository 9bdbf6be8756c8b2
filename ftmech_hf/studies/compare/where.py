"""Where does the change of the weights lie? The base with the change of one place alone, beside edits at random.

A large change of a matrix may change no prediction, and a small one many. So each place's change is made alone, and
beside it the same change turned at random: of equal norm and singular values in the same matrices, without its meaning
(:mod:`ftmech_hf.models.directions`). What was trained moves along what a model computes with, also where it was taught
nothing, and does more than what is turned: a place is named if it also does more than in the null models.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ftmech_hf.analysis.output_difference import compare_outputs
from ftmech_hf.analysis.restoring import ALL, EVERYTHING, Part, WeightChange, find_places, replaced
from ftmech_hf.studies.compare.finding import MARGIN
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
        in_nulls: the same of what null models changed there.
    """

    place: str
    size: float
    kl: float
    by_chance: Sequence[float]
    in_nulls: Sequence[float] = ()

    @property
    def stands_out(self) -> bool:
        """Whether it does more than at random, and as far beyond the null models as any finding must be."""
        return self.kl > max(self.by_chance, default=0.0) and self.kl > MARGIN * max(self.in_nulls, default=0.0)

    def row(self) -> dict[str, Any]:
        """As the table has it: a score beside the highest of the random edits and the null models."""
        return {"kind": "place of the change", "what": self.place, "score": self.kl,
                "null_score": max([*self.by_chance, *self.in_nulls], default=0.0), "size": self.size,
                "stands_out": self.stands_out}  # fmt: skip


NEARLY = 0.9
"""Share of the largest effect from which a place does nearly all that any does."""


def main_place(effects: Sequence[PlaceEffect]) -> PlaceEffect | None:
    """The place with the smallest change that does nearly as much as any and stands out; None if none does.

    A block does what its MLP does, if the change is there, and all blocks together what one of them does.
    """
    most = max((each.kl for each in effects), default=0.0)
    telling = [each for each in effects if each.kl >= NEARLY * most and each.stands_out]
    return min(telling, key=lambda each: each.size, default=None)


def place_effects(
    base: PreTrainedModel, finetuned: PreTrainedModel, windows: Windows, *, tokens: int, seed: int, draws: int = DRAWS
) -> list[PlaceEffect]:
    """What the change of each place does alone, those that do most first; none where nothing changed.

    Args:
        base, finetuned: of the same parameters; both are as they were at the end.
        windows: texts, of which :data:`MOST_WINDOWS` are read, from the first to the last.
        tokens: how many ids are tokens of the vocabulary.
        seed: of the chance by which edits are turned.
        draws: random edits beside each place's.
    """
    change = WeightChange(base, finetuned, find_places(finetuned))
    # Texts stand in the order of their data set, which may be one of topics.
    read = torch.linspace(0, len(windows.mask) - 1, min(MOST_WINDOWS, len(windows.mask))).long()
    few = Windows(*(each[read] for each in windows))
    edited = copy.deepcopy(base)

    def moved(part: Part, seed: int | None = None) -> float:
        with replaced(edited, change.only(part, seed=seed)):
            return compare_outputs(base, {"": edited}, *few, tokens=tokens)[""].mean_kl

    return sorted(
        (
            PlaceEffect(place, change.size(Part(place, ALL)), moved(Part(place, ALL)),
                        [moved(Part(place, ALL), seed * DRAWS + draw) for draw in range(draws)])
            for place in change.places if place != EVERYTHING
        ),
        key=lambda each: -each.kl,
    )  # fmt: skip


def beside_nulls(effects: Sequence[PlaceEffect], nulls: Sequence[Mapping[str, float]]) -> list[PlaceEffect]:
    """Effects of a pair beside those of null models, place -> KL of each; what a null model did not change is 0."""
    return [replace(each, in_nulls=[null.get(each.place, 0.0) for null in nulls]) for each in effects]
