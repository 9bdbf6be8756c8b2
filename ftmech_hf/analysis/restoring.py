"""What is the smallest part of a weight change that must be taken back for an ability to return?

A part is a place, which is some of the parameters, and how many directions of each matrix' change are taken back
there, the largest first. The control is the same edit turned at random, as :mod:`ftmech_hf.models.directions` says:
of equal norm, rank and singular values in the same matrices, without its meaning.

An edit is computed in float32 and rounded once, to what the weights are kept in. In sixteen bits these do not hold what
is below half a unit in their last place, which may be most of a small edit: so a part is as large as what is really
taken back, and what is measured is what can be saved. The control is of equal norm before it is rounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel

from ftmech_hf.activations import model_blocks
from ftmech_hf.models.computation import check_same_computation
from ftmech_hf.models.directions import change_directions, keep_directions, turn_at_random
from ftmech_hf.models.precision import widened
from ftmech_hf.models.stored import stored_tensors

EVERYTHING, BLOCKS, OUTSIDE = "everything", "all blocks", "outside the blocks"
BANDS = 6
"""Groups of neighbouring blocks that are tried apart."""

ALL = 0
"""As a number of directions: everything that changed in a place, its vectors too."""


class Part(NamedTuple):
    """A part of a weight change.

    Attributes:
        place: name of some parameters.
        directions: of each matrix there, or :data:`ALL`.
    """

    place: str
    directions: int


class TriedPart(NamedTuple):
    """A part that was taken back.

    Attributes:
        part: which.
        size: its share of the squared norm of the whole change, as it was taken back.
        score: of the model without it.
    """

    part: Part
    size: float
    score: float


@dataclass(frozen=True)
class RestoringResult:
    """Parts that were taken back, one at a time.

    Attributes:
        tried: in the order in which they were.
        enough: score from which the ability counts as restored.
    """

    tried: Sequence[TriedPart]
    enough: float

    @property
    def smallest(self) -> TriedPart | None:
        """The smallest part that is enough, of equal ones the one that says how many directions; None if none is."""
        enough = [each for each in self.tried if each.score >= self.enough]
        return min(enough, key=lambda each: (round(each.size, 6), each.part.directions == ALL), default=None)

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per part."""
        return [{**each.part._asdict(), "size": each.size, "score": each.score} for each in self.tried]

    def summary(self) -> dict[str, Any]:
        """The smallest part that is enough."""
        found = self.smallest
        nothing = {"place": None, "directions": None, "size": None}
        return nothing if found is None else {**found.part._asdict(), "size": found.size}


@contextlib.contextmanager
def replaced(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> Iterator[PreTrainedModel]:
    """The model with other values of some parameters, which are put back to the bit at the end."""
    parameters = stored_tensors(model)
    kept = {name: parameters[name].detach().clone() for name in weights}
    try:
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(value)
        yield model
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


def _squared_norm(parts: Iterable[Tensor]) -> float:
    """Of all of them together, which need not be there at the same time; a device is waited for once."""
    sums = [each.float().square().sum() for each in parts]
    return float(torch.stack([each.to(sums[0].device) for each in sums]).sum()) if sums else 0.0


class WeightChange:
    """What fine-tuning changed, in parts.

    Args:
        base, finetuned: of the same parameters. They are read whenever something is asked, so ask while they are whole.
        places: name of a place -> its parameters. Those that did not change are left out, and places of none.

    Attributes:
        places: as given, of what changed.

    Raises:
        ValueError: the two compute differently with the same weights, so that one's have no meaning in the other.
    """

    def __init__(self, base: PreTrainedModel, finetuned: PreTrainedModel, places: Mapping[str, Sequence[str]]) -> None:
        check_same_computation("finetuned", base, finetuned)
        self._after = stored_tensors(finetuned)
        self._before = {name: each.to(self._after[name].device) for name, each in stored_tensors(base).items()}
        changed = {name for name, each in self._after.items() if not torch.equal(each, self._before[name])}
        kept = {place: [name for name in names if name in changed] for place, names in places.items()}
        self.places = {place: names for place, names in kept.items() if names}
        self._whole = _squared_norm(self._delta(name) for name in self._after if name in changed)
        kernels = [name for name, module in finetuned.named_modules() if isinstance(module, _ConvNd)]
        self._no_matrices = {f"{name}.weight" for name in kernels}
        self._directions: dict[str, list[Tensor]] = {}

    def _delta(self, name: str) -> Tensor:
        return (widened(self._after[name]) - widened(self._before[name])).detach()

    def _part_of(self, name: str, number: int) -> Tensor:
        """What of a parameter's change is in its first directions, of each expert's its own; of a vector none is."""
        delta = self._delta(name)
        if number == ALL:
            return delta
        if delta.ndim not in (2, 3) or name in self._no_matrices:
            return torch.zeros_like(delta)
        matrices = delta.reshape(-1, *delta.shape[-2:])
        if name not in self._directions:
            self._directions[name] = [change_directions(each) for each in matrices]
        kept = [
            keep_directions(each, found, number) for each, found in zip(matrices, self._directions[name], strict=True)
        ]
        return torch.stack(kept).view_as(delta)

    def rank(self, place: str) -> int:
        """Directions in the matrix of a place that has most."""
        for name in self.places[place]:
            self._part_of(name, 1)
        found = [each for name in self.places[place] for each in self._directions.get(name, ())]
        return max((each.shape[1] for each in found), default=0)

    def size(self, part: Part) -> float:
        """Its share of the squared norm of the whole change, as :meth:`without` takes it back: once it is rounded."""
        taken = (self._stored(name, self._part_of(name, part.directions)) for name in self.places[part.place])
        return _squared_norm(taken) / max(self._whole, 1e-300)

    def _stored(self, name: str, edit: Tensor) -> Tensor:
        """What is left of an edit that is taken from a parameter, in its type of number."""
        after = self._after[name].detach()
        return edit if edit.dtype == after.dtype else widened(after) - widened(_edited(after, -edit))

    def without(self, part: Part, *, seed: int | None = None) -> dict[str, Tensor]:
        """Parameters of the fine-tuned model with a part taken back.

        Args:
            part: which.
            seed: of the chance by which the edit is turned; None for the edit itself.
        """
        return {name: _edited(self._after[name], -edit) for name, edit in self._edits(part, seed)}

    def only(self, part: Part, *, seed: int | None = None) -> dict[str, Tensor]:
        """Parameters of a place at which the base has this part of the change and nothing else.

        Args:
            part, seed: as for :meth:`without`.
        """
        return {name: _edited(self._before[name], edit) for name, edit in self._edits(part, seed)}

    def _edits(self, part: Part, seed: int | None) -> Iterator[tuple[str, Tensor]]:
        """A part of the change of every parameter of a place, one by one; turned by chance if there is a seed."""
        for number, name in enumerate(self.places[part.place]):
            edit = self._part_of(name, part.directions)
            if seed is not None:
                # each expert's in itself: in another expert, which other tokens take, it would be another edit
                inside = (1, 2) if edit.ndim == 3 and name not in self._no_matrices else None
                edit = turn_at_random(edit, torch.Generator().manual_seed(seed * 100_003 + number), axes=inside)
            yield name, edit


def _edited(weight: Tensor, edit: Tensor) -> Tensor:
    """A weight with an edit in float32 added to it, rounded once."""
    return (widened(weight.detach()) + edit).to(weight.dtype)


def find_places(model: PreTrainedModel) -> dict[str, list[str]]:
    """Places of a change: the parts of blocks, blocks, all of them, what is outside, everything.

    Of a deep model neighbouring blocks are one place. Smaller places come first.
    """
    blocks, stored = list(model_blocks(model)), stored_tensors(model)
    parts, bands = dict[str, list[str]](), dict[str, list[str]]()
    for band in np.array_split(np.arange(len(blocks)), min(BANDS, len(blocks))):
        where = f"block {band[0]}" if len(band) == 1 else f"blocks {band[0]} to {band[-1]}"
        for layer in band:
            path, _ = blocks[layer]
            for full in [name for name in stored if name.startswith(f"{path}.")]:
                name = full.removeprefix(f"{path}.")
                parts.setdefault(f"{name.split('.')[0]} of {where}", []).append(full)
                bands.setdefault(where, []).append(full)
    inside = [name for names in bands.values() for name in names]
    outside = [name for name in stored if name not in set(inside)]
    return {**parts, **bands, BLOCKS: inside, OUTSIDE: outside, EVERYTHING: [*inside, *outside]}


def numbers_of_directions(rank: int) -> list[int]:
    """1, 2, 4 ... up to a rank."""
    return [2**power for power in range(rank.bit_length())]


def find_restoring(
    model: PreTrainedModel, change: WeightChange, score: Callable[[PreTrainedModel], float], *, enough: float
) -> RestoringResult:
    """Take back the whole change of each place, and where that is enough 1, 2, 4 ... directions, until that is, too.

    Args:
        model: the fine-tuned one; it is as it was at the end.
        change: its parts.
        score: of a model, on rows that are not reported on.
        enough: score from which the ability counts as restored.
    """
    tried: list[TriedPart] = []

    def attempt(part: Part) -> bool:
        size = change.size(part)
        with replaced(model, change.without(part)):
            tried.append(TriedPart(part, size, score(model)))
        return tried[-1].score >= enough

    for place in change.places:
        if attempt(Part(place, ALL)):
            for number in numbers_of_directions(change.rank(place)):
                if attempt(Part(place, number)):
                    break
    return RestoringResult(tried, enough)
