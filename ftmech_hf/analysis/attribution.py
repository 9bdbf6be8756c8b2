"""Which units carry the change? One backward pass in place of a patch for each: attribution patching.

The effect of computing with another model's activation is estimated to first order, by the difference of activations
times the gradient of the answer's log-probability (Nanda 2023; Syed et al., arXiv 2310.10348). All units of all places
are estimated at once. It is wrong where the model bends between the two values, so that what it points to is
patched exactly afterwards, together with as many units by chance. Where a model is flat at its own value and steep
farther on, as a saturated one is, the gradient can be averaged over values between the two (integrated gradients:
Sundararajan et al., arXiv 1703.01365; of units: Marks et al., arXiv 2403.19647), at one backward pass for each.
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
from ftmech_hf.activations.patches import (
    Part,
    Place,
    Stands,
    answers_at_once,
    answers_under,
    log_probabilities,
    one_token,
    places_with,
    read_tokens,
    record_activations,
)


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
        by_position: place -> the same at each position alone, a mean over rows, (T, N).
    """

    effects: dict[Place, Tensor]
    by_position: dict[Place, Tensor]

    def of_part(self, part: Part) -> float:
        """Effect of some units at one position, a mean over rows."""
        return float(self.by_position[part.site, part.layer][part.position, part.first : part.end].sum())

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
    other_ids: Tensor | None = None,
    instead: Tensor | None = None,
    steps: int = 0,
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
        other_ids: what the donor is given for each row, (B, T); the same rows if not given.
        instead: another answer of one token to each row, (B,): effects are then on the logit of the answer less that
            of the other, which does not saturate where one of them is certain.
        steps: over how many values on the way from the receiver's to the donor's gradients are averaged, place by
            place; 0 for the gradient at the receiver's own, of all places in one pass.
        batch_size: rows of one backward pass.

    Raises:
        ValueError: a site that none of the layers has, or another answer to answers of several tokens.
    """
    places = places_with(receiver, sites, layers)
    answer = one_token(token_ids) if answer is None else answer
    if instead is not None and int(answer.sum(1).max()) > 1:
        raise ValueError("instead: is one token, but answers have several")
    others = token_ids if other_ids is None else other_ids
    found: dict[Place, list[Tensor]] = {place: [] for place in places}
    sums = dict.fromkeys(places, torch.zeros(()))
    at_once = answers_at_once(receiver, int(answer.sum(1).max()), batch_size)
    for chosen in torch.arange(len(token_ids)).split(at_once):
        asked = _Asked(token_ids[chosen], answer[chosen], None if instead is None else instead[chosen])
        theirs = record_activations(donor, others[chosen, :-2], places)
        gradients: Sequence[Tensor]
        if steps:
            own = record_activations(receiver, asked.token_ids[:, :-2], places)
            gradients = [_mean_gradient(receiver, asked, place, own[place], theirs[place], steps) for place in places]
        else:
            own, gradients = _gradients(receiver, asked, places)
        for place, gradient in zip(places, gradients, strict=True):
            difference = theirs[place].to(own[place].device) - own[place]
            effect = difference.float() * gradient.float()
            found[place].append(effect.sum(1).cpu())
            sums[place] = sums[place] + effect.sum(0).cpu()
    return AttributionResult(
        {place: torch.cat(parts) for place, parts in found.items()},
        {place: each / len(token_ids) for place, each in sums.items()},
    )


class _Asked(NamedTuple):
    """Whole rows (B, T), where their answers are, and perhaps another answer to each, (B,)."""

    token_ids: Tensor
    answer: Tensor
    instead: Tensor | None

    def score(self, model: PreTrainedModel) -> Tensor:
        """The sum over rows of what effects are on."""
        number = int(self.answer.sum(1).max())
        ids = self.token_ids[:, :-2].to(model.device)
        logits = model(ids, logits_to_keep=number, use_cache=False).logits[:, -number:].float()
        expected, counts = (each[:, -1 - number : -1].to(logits.device) for each in (self.token_ids, self.answer))
        if self.instead is None:
            return log_probabilities(logits, expected, counts).sum()  # rows do not depend on each other
        other = self.instead.to(logits.device)[:, None]
        both = [logits[:, 0].gather(-1, token)[:, 0] for token in (expected, other)]
        return (both[0] - both[1]).sum()


def _gradients(
    model: PreTrainedModel, asked: _Asked, places: Sequence[Place]
) -> tuple[dict[Place, Tensor], Sequence[Tensor]]:
    """Values (B, T, N) at places and how the score of each row changes with them."""
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
    with intervene(model, writes), torch.enable_grad():
        gradients = torch.autograd.grad(asked.score(model), [seen[place] for place in places])
    return values, gradients


def _mean_gradient(
    model: PreTrainedModel, asked: _Asked, place: Place, own: Tensor, theirs: Tensor, steps: int
) -> Tensor:
    """The same at one place, a mean over so many values between its own and the donor's."""
    total = torch.zeros_like(own, dtype=torch.float32)
    for step in range(steps):
        between = torch.lerp(own, theirs.to(own), (step + 0.5) / steps).requires_grad_()
        with intervene(model, {place: lambda value, between=between: between}), torch.enable_grad():  # type: ignore[misc]
            (gradient,) = torch.autograd.grad(asked.score(model), between)
        total += gradient.float()
    return total / steps


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
    sets: Sequence[Sequence[PlacedUnit]],
    *,
    answer: Tensor | None = None,
    stands: Stands | None = None,
    batch_size: int = 128,
) -> list[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
    """What the receiver answers with some of the donor's units, all of a set at once and at all positions: exactly.

    The donor runs once for all sets. See :func:`ftmech_hf.analysis.patching.patch_each`.

    Returns:
        for each set: whether each row is right, and the log-probability of its answer in nats, (B,) each.
    """
    places = list(dict.fromkeys((unit.site, unit.layer) for units in sets for unit in units))
    answer = one_token(token_ids) if answer is None else answer
    number = int(answer.sum(1).max())
    batch_size = answers_at_once(receiver, number, batch_size)
    parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in sets]
    for rows, tokens in zip(token_ids.split(batch_size), answer.split(batch_size), strict=True):
        found = record_activations(donor, read_tokens(rows, stands is not None), places) if places else {}
        for units, each in zip(sets, parts, strict=True):
            asked, patch = tokens[:, -1 - number : -1], write_units(found, units)
            each.append(answers_under(receiver, rows, asked, patch, stands))
    joined = [[torch.cat(several).numpy() for several in zip(*each, strict=True)] for each in parts]
    return [(right, likely) for right, likely in joined]
