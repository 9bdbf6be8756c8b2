"""Which units carry the change? One backward pass in place of a patch for each: attribution patching.

The effect of computing with another model's activation is estimated to first order, by the difference of activations
times the gradient of the answer's log-probability (Nanda 2023; Syed et al., arXiv 2310.10348). All units of all places
are estimated at once. It is wrong where the model bends between the two values, so that what it points to is
patched exactly afterwards, together with as many units by chance.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import intervene
from ftmech_hf.activations.interventions import Write
from ftmech_hf.activations.patches import Place, answers_under, places_with, record_activations


class PlacedUnit(NamedTuple):
    """One entry of what a model computes at a place: at ``mlp_act`` a neuron.

    Attributes:
        site, layer: the place.
        unit: its number there.
    """

    site: str
    layer: int
    unit: int


@dataclass(frozen=True)
class AttributionResult:
    """Estimated effects of patches from a donor on the log-probability of a receiver's answers.

    Attributes:
        effects: place -> effect of the donor's value of each unit alone, at all positions, (B, N), in nats.
    """

    effects: dict[Place, Tensor]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per place, its effect and its strongest unit."""
        return [
            {"site": site, "layer": layer, "effect": float(each.sum(1).mean()), "unit": int(each.mean(0).argmax()),
             "unit_effect": float(each.mean(0).max())}
            for (site, layer), each in self.effects.items()
        ]  # fmt: skip

    def of_places(self) -> dict[Place, float]:
        """Effect of all units of a place at once: the sum of theirs, a mean over rows."""
        return {place: float(each.sum(1).mean()) for place, each in self.effects.items()}

    def top_units(self, number: int) -> list[PlacedUnit]:
        """The units with the largest mean effects over all places, the largest first; ties go to the first."""
        means = torch.cat([each.mean(0) for each in self.effects.values()])
        units = self._units()
        return [units[at] for at in torch.sort(means, descending=True, stable=True).indices[:number].tolist()]

    def random_units(self, number: int, rng: np.random.Generator) -> list[PlacedUnit]:
        """As many units, chosen by chance: the control."""
        units = self._units()
        return [units[at] for at in rng.choice(len(units), size=min(number, len(units)), replace=False)]

    def _units(self) -> list[PlacedUnit]:
        return [PlacedUnit(*place, unit) for place, each in self.effects.items() for unit in range(each.shape[1])]

    def summary(self) -> dict[str, Any]:
        """The strongest unit."""
        return self.top_units(1)[0]._asdict()


def attribute_patches(
    donor: PreTrainedModel,
    receiver: PreTrainedModel,
    token_ids: Tensor,
    *,
    sites: Sequence[str],
    layers: Sequence[int],
    answer: Tensor | None = None,
    batch_size: int = 32,
) -> AttributionResult:
    """Estimate what every unit of every place would do to the answers if the receiver had the donor's value of it.

    Args:
        donor: whose activations would be written; of the receiver's shape.
        receiver: which would compute with them; its weights need no gradients.
        token_ids: whole rows (B, T), which end with the answer and one token more.
        sites: some of :data:`ftmech_hf.activations.WRITABLE`; in a hybrid, one counts in those layers that have it.
        layers: which layers.
        answer: which tokens are the answer, bool (B, T), the last ones but the end; the last but one if not given.
        batch_size: rows of one backward pass.

    Raises:
        ValueError: a site that none of the layers has.
    """
    places = places_with(receiver, sites, layers)
    answer = last_token_but_one(token_ids) if answer is None else answer
    found: dict[Place, list[Tensor]] = {place: [] for place in places}
    for rows, tokens in zip(token_ids.split(batch_size), answer.split(batch_size), strict=True):
        theirs = record_activations(donor, rows[:, :-2], places)
        own, gradients = _gradients(receiver, rows, tokens, places)
        for place, value, gradient in zip(places, own, gradients, strict=True):
            effect = (theirs[place].to(value.device) - value).float() * gradient.float()
            found[place].append(effect.sum(1).cpu())
    return AttributionResult({place: torch.cat(parts) for place, parts in found.items()})


def last_token_but_one(token_ids: Tensor) -> Tensor:
    """Where the answer of one token stands in whole rows: bool (B, T)."""
    answer = torch.zeros_like(token_ids, dtype=torch.bool)
    answer[:, -2] = True
    return answer


def _gradients(
    model: PreTrainedModel, token_ids: Tensor, answer: Tensor, places: Sequence[Place]
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Values (B, T, N) at places and how the log-probability of each row's own answer changes with them."""
    seen: dict[Place, Tensor] = {}
    values: dict[Place, Tensor] = {}

    def keep(place: Place, value: Tensor) -> Tensor:
        seen[place], values[place] = value, value.detach().clone()  # blocks may add to it in place
        return value

    def enter(stream: Tensor) -> Tensor:
        entered = stream.detach().requires_grad_()  # the weights may be frozen, and their gradients are not wanted
        return keep(("resid_pre", 0), entered)

    writes: dict[Place, Write] = {place: functools.partial(keep, place) for place in places}
    writes["resid_pre", 0] = enter
    number = int(answer.sum(1).max())
    with intervene(model, writes), torch.enable_grad():
        ids = token_ids[:, :-2].to(model.device)
        logits = model(ids, logits_to_keep=number, use_cache=False).logits[:, -number:].float()
        expected, counts = (each[:, -1 - number : -1].to(logits.device) for each in (token_ids, answer))
        each = logits.log_softmax(-1).gather(-1, expected[..., None])[..., 0]
        likely = each.masked_fill(~counts, 0.0).sum()  # rows do not depend on each other
        gradients = torch.autograd.grad(likely, [seen[place] for place in places])
    return [values[place] for place in places], gradients


def write_units(found: dict[Place, Tensor], units: Iterable[PlacedUnit]) -> dict[Place, Write]:
    """Writes that put some units of a donor into a receiver, and leave all others as they are.

    Args:
        found: place -> the donor's activations (B, T, N) of the rows that the receiver is given.
        units: which of them.
    """
    by_place: dict[Place, list[int]] = {}
    for unit in units:
        by_place.setdefault((unit.site, unit.layer), []).append(unit.unit)

    def write(place: Place, chosen: list[int], value: Tensor) -> Tensor:
        patched = value.clone()
        patched[..., chosen] = found[place][..., chosen].to(value)
        return patched

    return {place: functools.partial(write, place, chosen) for place, chosen in by_place.items()}


@torch.no_grad()
def patch_units(
    donor: PreTrainedModel,
    receiver: PreTrainedModel,
    token_ids: Tensor,
    units: Sequence[PlacedUnit],
    *,
    answer: Tensor | None = None,
    batch_size: int = 128,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """What the receiver answers with some of the donor's units, all at once and at all positions: exact patching.

    Returns:
        whether each row is right, and the log-probability of its answer in nats, (B,) each.
    """
    places = list(dict.fromkeys((unit.site, unit.layer) for unit in units))
    answer = last_token_but_one(token_ids) if answer is None else answer
    number, parts = int(answer.sum(1).max()), []
    for rows, tokens in zip(token_ids.split(batch_size), answer.split(batch_size), strict=True):
        found = record_activations(donor, rows[:, :-2], places) if places else {}
        parts.append(answers_under(receiver, rows, tokens[:, -1 - number : -1], write_units(found, units)))
    right, likely = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
    return right, likely
