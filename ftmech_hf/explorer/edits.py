"""Edits of a fine-tuned model: its weight change scaled, cut to a few directions, rows zeroed, one layer patched.

An edited model is always written anew from the two models that it lies between, never from what it was before. So no
edit leaves a trace, a scale of 1 is the fine-tuned model to the bit, and a scale of 0 its base.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import Unit, Units, find_units, model_blocks
from ftmech_hf.activations.matrices import find_matrices
from ftmech_hf.analysis.pruning import Mask, num_units, pruned, random_mask
from ftmech_hf.models.directions import are_all, change_directions, keep_directions, turn_at_random
from ftmech_hf.models.interpolation import check_same_shapes, mix_weights
from ftmech_hf.models.precision import widened
from ftmech_hf.models.stored import stored_tensors

BASE, FINETUNED, REVERSED, EDITED = "base", "finetuned", "reversed", "edited"
"""What the models of a page are called."""

SCALES = (-1.0, 2.0)
"""The least and the largest scale of a weight change."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What is done to the fine-tuned model.

    Attributes:
        scale: of the weight change: 1 is the fine-tuned model, 0 its base, between them WiSE-FT.
        directions: how many of every matrix' change are kept, the largest ones; 0 for all.
        zero_rows: whether the units that pruning found are set to zero.
        patch_from: the model whose activations are written; None for none.
        patch_site: what is written, one of :data:`ftmech_hf.activations.WRITABLE`.
        patch_layer: where, counted from 0.
        at_random: the same edit with its direction by chance: see :class:`EditedModel`.
        seed: of that chance.
    """

    scale: float = 1.0
    directions: int = 0
    zero_rows: bool = False
    patch_from: str | None = None
    patch_site: str = "resid_post"
    patch_layer: int = 0
    at_random: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = SCALES
        if not (math.isfinite(self.scale) and low <= self.scale <= high):
            raise ValueError(f"scale: {self.scale}, expected {low:g} to {high:g}")
        if self.directions < 0:
            raise ValueError(f"directions: {self.directions}, expected 0 (all) or more")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed: {self.seed}, expected 0 or more, below 2^31")

    def by_chance(self, seed: int) -> Edit:
        """The same edit with its direction by chance."""
        return replace(self, at_random=True, seed=seed)


class FoundUnits(NamedTuple):
    """Units that a pruning run found, by the names it gives them, such as ``transformer.h.0.mlp.c_proj[25]``."""

    unit: Unit
    names: Sequence[str]


def units_mask(units: Units, names: Sequence[str]) -> Mask:
    """The mask that prunes units of these names; True = kept.

    Raises:
        ValueError: a name is that of no unit.
    """
    mask = {group: torch.ones(found.num_units, dtype=torch.bool) for group, found in units.items()}
    for name in names:
        match = re.fullmatch(r"(.+)\[(\d+)\]", name)
        if not match or match[1] not in mask or int(match[2]) >= len(mask[match[1]]):
            raise ValueError(f"pruned: {name} is no unit of this model, expected the name of a group and a number")
        mask[match[1]][int(match[2])] = False
    return mask


class EditedModel:
    """A copy of the fine-tuned model that is edited in place.

    With ``at_random`` every part of an edit is replaced by one as large without its meaning: the difference of each
    parameter from the fine-tuned model by itself, turned at random (same norm, rank and singular values); as many
    units, chosen by chance; and the difference that a patch makes at every position, turned at random too.

    Args:
        base, finetuned: two models of one shape; they stay as they are.
        found: units that pruning found.

    Attributes:
        model: the copy.
        directions: name of a matrix -> directions of its change; of those in the blocks that changed.
        most_directions: how many there are in the matrix that has most; of a large matrix, whose first ones are known
            alone, one more than these.
        share: of the squared norm of the whole weight change, what lies in these matrices.

    Raises:
        ValueError: the models differ in shape, or a unit that was found is none of theirs.
    """

    def __init__(self, base: PreTrainedModel, finetuned: PreTrainedModel, found: FoundUnits | None = None) -> None:
        check_same_shapes(base, finetuned)
        self.model = copy.deepcopy(finetuned)
        self._ends = stored_tensors(base), stored_tensors(finetuned)
        self._weights = stored_tensors(self.model)
        self._changed = [name for name, weight in self._ends[1].items() if not torch.equal(weight, self._ends[0][name])]
        matrices = {
            f"{block}.{path}.weight" for block, part in model_blocks(self.model) for path in find_matrices(part)
        }
        sizes, numbers, self.directions = dict[str, float](), [0], dict[str, Tensor]()
        with torch.no_grad():
            for name in self._changed:  # one at a time: all of them are as large as a model
                change = widened(self._ends[1][name]) - widened(self._ends[0][name])
                sizes[name] = float(change.norm().cpu().double().square())
                if name in matrices:
                    self.directions[name] = found_here = change_directions(change)
                    numbers.append(found_here.shape[1] + (not are_all(change, found_here)))
        self.most_directions = max(numbers)
        self.share = sum(sizes[name] for name in self.directions) / max(sum(sizes.values()), 1e-300)
        self._units = find_units(self.model, found.unit) if found else {}
        self._mask = units_mask(self._units, found.names) if found else {}
        self.num_found = len(found.names) if found else 0
        self._written: Edit | None = Edit()

    @contextlib.contextmanager
    def edited(self, edit: Edit) -> Iterator[PreTrainedModel]:
        """The model under the edits of its weights; patches are up to the caller, see :func:`patch_of`."""
        weights = replace(edit, zero_rows=False, patch_from=None, patch_site="", patch_layer=0)
        if weights != self._written:
            self._written = None  # what fails midway, for want of memory, leaves no edit whole
            self._write(weights)
            self._written = weights
        mask: Mask = {}
        if edit.zero_rows and self._mask:
            mask = self._mask
            if edit.at_random:
                number = num_units(mask) - int(sum(kept.sum() for kept in mask.values()))
                mask = random_mask(mask, number, np.random.default_rng(edit.seed))
        with pruned(self._units, mask):
            yield self.model

    @torch.no_grad()
    def _write(self, edit: Edit) -> None:
        for number, name in enumerate(self._changed):
            before, after = (widened(end[name]) for end in self._ends)
            wanted = self._wanted(name, before, after, edit)
            if edit.at_random:
                generator = torch.Generator().manual_seed(edit.seed * 100_003 + number)
                wanted = after + turn_at_random(wanted - after, generator)
            self._weights[name].copy_(wanted)

    def _wanted(self, name: str, before: Tensor, after: Tensor, edit: Edit) -> Tensor:
        if not edit.directions or name not in self.directions:
            return mix_weights(before, after, edit.scale)
        return before + edit.scale * keep_directions(after - before, self.directions[name], edit.directions)


def patch_of(donor: Tensor, edit: Edit) -> Callable[[Tensor], Tensor]:
    """What writes a donor's activations of a prompt (1, T, width) into a model's passes over that prompt.

    Later passes of a model that keeps what it read are those of tokens that were written since, or of single streams,
    and stay as they are; a model that keeps nothing reads the prompt again, with those tokens after it.
    """
    done, length = False, donor.shape[1]

    def write(value: Tensor) -> Tensor:
        nonlocal done
        if value.shape[1] < length or (done and value.shape[1] == length):
            return value
        done = True
        prompt, since = value[:, :length], value[:, length:]
        there = donor.to(value).expand_as(prompt)
        if edit.at_random:
            generator = torch.Generator().manual_seed(edit.seed)
            there = prompt + turn_at_random(there - prompt, generator, axes=(value.ndim - 1,))
        return torch.cat([there, since], 1)

    return write
