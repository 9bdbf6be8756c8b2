"""Does zeroing a few neurons bring a capability back? (Jain et al., arXiv 2311.12786, App. D, Algorithm 3.)

The loss is the answers' cross-entropy on prompts of the *pretraining* capability. The paper's neuron is an output row
of a weight matrix, and its importance is the sum over the row of gradient x weight: to first order, how much the loss
falls when the row is set to zero. The K units with the largest importance are zeroed at once (single step), or a few at
a time, with the importance computed again in between (iterative).

For every kind of unit the sum of gradient x weight over its slice *is* gradient x activation, summed over positions: of
what the slice multiplies (an MLP neuron's activation, a head's output), or of what a row computes without its bias.

Deviations: the paper does not say which matrices take part; here all 2-D weights of the blocks do, never embeddings,
unembedding, norms or biases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ftmech_hf.activations import Units
from ftmech_hf.activations.gradients import gradients_of

Importance = dict[str, Tensor]
"""Group of units -> importance of each, in nats unless another score is used: the largest are pruned first."""

Mask = dict[str, Tensor]
"""The same keys and shapes, bool: True = kept."""


class Batches(Protocol):
    """Rows that can be taken in batches: a tensor, or anything that splits as one does."""

    def __len__(self) -> int: ...

    def split(self, size: int, /) -> Sequence[Self]:
        """Parts of at most so many rows, in order."""
        ...


Rows = TypeVar("Rows", bound=Batches)


def gradient_importance(
    units: Units,
    loss: Callable[[Rows], Tensor],
    rows: Rows,
    *,
    batch_size: int = 64,
    weight: Callable[[Rows], int] = len,
) -> Importance:
    """Gradient x weight, summed over each unit's slice: the first-order fall of the loss when it is set to zero.

    Weights that are frozen are not while it computes.

    Args:
        units: of the model.
        loss: mean loss of a batch of rows; depends on the units' weights.
        rows: what the loss is computed on.
        batch_size: rows of one backward pass.
        weight: how many things the loss of a batch is the mean of; its rows if not given.
    """
    whole = sum(weight(batch) for batch in rows.split(batch_size))
    weights = list({id(group.whole): group.whole for group in units.values()}.values())
    total = {name: torch.zeros(group.num_units, device=group.weight.device) for name, group in units.items()}
    held: dict[int, list[str]] = {}
    for name, group in units.items():
        held.setdefault(id(group.whole), []).append(name)
    share = 0.0

    def add(weights: Tensor) -> None:
        assert weights.grad is not None
        for name in held[id(weights)]:
            group = units[name]
            # In half precision small products would be nothing, and sums of many would end in the same few numbers.
            product = group.part(weights.grad).float() * group.weight.detach().float()
            total[name] += group.sum_over(product) * share
        weights.grad = None  # so that there are never the gradients of all matrices at the same time

    with gradients_of(weights, add):
        for batch in rows.split(batch_size):
            share = weight(batch) / whole
            loss(batch).backward(inputs=weights)
    return {name: values.cpu() for name, values in total.items()}


def magnitude_importance(units: Units) -> Importance:
    """Minus the Euclidean norm of each unit's slice: the smallest go first, whatever they do. A baseline."""
    return {name: -group.sum_over(group.weight.detach().float().square()).sqrt().cpu() for name, group in units.items()}


def random_importance(units: Units, rng: np.random.Generator) -> Importance:
    """Any order: a baseline."""
    return {name: torch.from_numpy(rng.random(group.num_units)).float() for name, group in units.items()}


def num_units(importance: Mapping[str, Tensor]) -> int:
    """How many units there are in all."""
    return sum(len(values) for values in importance.values())


def top_mask(importance: Importance, num_pruned: int) -> Mask:
    """Prune the ``num_pruned`` units of largest importance; ties go to the first. True = kept.

    Raises:
        ValueError: more units are to be pruned than there are, or fewer than none; or an importance is no number.
    """
    flat = torch.cat(list(importance.values()))
    if flat.isnan().any():
        raise ValueError(f"importance: {int(flat.isnan().sum())} of {len(flat)} units have nan, expected numbers")
    if not 0 <= num_pruned <= len(flat):
        raise ValueError(f"num_pruned: {num_pruned}, expected 0 to {len(flat)}")
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[torch.sort(flat, descending=True, stable=True).indices[:num_pruned]] = False
    parts = kept.split([len(values) for values in importance.values()])
    return dict(zip(importance, parts, strict=True))


def random_mask(importance: Importance, num_pruned: int, rng: np.random.Generator) -> Mask:
    """Prune as many units, chosen at random: the control. True = kept."""
    shuffled = torch.from_numpy(rng.permutation(num_units(importance))).float()
    parts = shuffled.split([len(values) for values in importance.values()])
    return top_mask(dict(zip(importance, parts, strict=True)), num_pruned)


def _dropped(units: Units, mask: Mask) -> Iterator[tuple[Tensor, int, Tensor]]:
    """(weight, axis, indices along it) of what a mask prunes; of single weights, flat."""
    for name, kept in mask.items():
        group = units[name]
        places = group.places((~kept).nonzero().flatten().to(group.weight.device)).flatten()
        weight = group.weight.detach()
        yield (weight.view(-1), 0, places) if group.side == "entry" else (weight, group.axis, places)


def prune_weights(units: Units, mask: Mask) -> None:
    """Zero the units that ``mask`` does not keep, for good: the mask is folded into the weights."""
    for weight, axis, places in _dropped(units, mask):
        weight.index_fill_(axis, places, 0.0)


@contextlib.contextmanager
def pruned(units: Units, mask: Mask) -> Iterator[None]:
    """:func:`prune_weights` while the context is open; they come back on exit, bit for bit."""
    saved = [
        (weight, axis, places, weight.index_select(axis, places)) for weight, axis, places in _dropped(units, mask)
    ]
    try:
        prune_weights(units, mask)
        yield
    finally:
        for weight, axis, places, values in saved:
            weight.index_copy_(axis, places, values)


@dataclass(frozen=True)
class PruningResult:
    """Accuracies under masks of growing size.

    Attributes:
        unit: what a unit was; see :data:`~ftmech_hf.activations.units.Unit`.
        curve: one entry per (K, method, draw): ``num_pruned``, ``method`` (``importance`` or ``random``), ``draw``, and
            an accuracy per test set.
        best_k: the K in ``chosen_among`` with the best accuracy of ``chosen_on``; ties go to the smallest.
        chosen_on: the validation set that chose.
        best_mask: the mask that pruned them.
        pruned: names of the units that the best mask prunes, such as ``matrix[number]``.
    """

    unit: str
    curve: list[dict[str, Any]]
    best_k: int
    chosen_on: str
    best_mask: Mask = field(repr=False)
    pruned: list[str]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table."""
        return [{"unit": self.unit, **entry} for entry in self.curve]

    def at_best(self, method: str, test_set: str) -> float:
        """Mean accuracy over draws at the chosen K."""
        values = [e[test_set] for e in self.curve if e["method"] == method and e["num_pruned"] == self.best_k]
        return float(np.mean(values))

    def summary(self) -> dict[str, Any]:
        """The chosen K and what it names."""
        return {"unit": self.unit, "best_k": self.best_k, "chosen_on": self.chosen_on, "pruned": self.pruned}


def nested_masks(
    importance: Importance, sizes: Sequence[int], rescore: Callable[[Mask], Importance] | None = None
) -> dict[int, Mask]:
    """Masks that prune growing numbers of units: size -> mask.

    Args:
        importance: of every unit of the whole model.
        sizes: how many units to prune.
        rescore: gives the importance under a mask; with it, each mask adds to the one before the units that are most
            important then (iterative). Without it, all come from ``importance`` (single step).
    """
    masks: dict[int, Mask] = {}
    before: Mask = {}
    for size in sorted(set(sizes)):
        if rescore is not None and before:
            importance = {
                name: torch.where(before[name], values, torch.inf) for name, values in rescore(before).items()
            }
        masks[size] = top_mask(importance, size)
        before = masks[size] if size else {}
    return masks


def prune_sweep(
    importance: Importance,
    evaluate: Callable[[Mask, Sequence[str]], Mapping[str, float]],
    evaluate_random: Callable[[Mask, Sequence[str]], Mapping[str, float]] | None = None,
    *,
    unit: str,
    test_sets: Sequence[str],
    control_sets: Sequence[str],
    sizes: Sequence[int],
    max_best_k: int,
    chosen_on: str,
    num_random: int,
    num_random_at_best: int,
    seed: int,
    rescore: Callable[[Mask], Importance] | None = None,
    unit_name: Callable[[str, int], str] = "{}[{}]".format,
) -> PruningResult:
    """Prune growing numbers of units, by importance and at random, and choose the best K on a validation set.

    Args:
        importance: of every unit.
        evaluate: ``evaluate(mask, names)`` gives the accuracy under a mask on each named test set.
        evaluate_random: the same for random masks, of which there are many; ``evaluate`` if None.
        unit: what a unit is; see :data:`~ftmech_hf.activations.units.Unit`.
        test_sets: names to evaluate after pruning by importance; ``chosen_on`` must be among them.
        control_sets: names to evaluate after pruning at random.
        sizes: the K to try.
        max_best_k: the chosen K is at most this (the paper revives with 5 to 15 rows).
        chosen_on: name of the validation accuracy that chooses; report another, since a maximum is optimistic.
        num_random: random masks per K in the control.
        num_random_at_best: random masks at the chosen K, at least; masks differ widely, and this is what is compared.
        seed: of the random masks.
        rescore: see :func:`nested_masks`.
        unit_name: what to call a unit of a group.

    Raises:
        ValueError: no size is from 1 to ``max_best_k``, or one is more than all units.
    """
    curve: list[dict[str, Any]] = []

    def prune_randomly(size: int, draws: range) -> None:
        for draw in draws:
            rng = np.random.default_rng([seed, size, draw])
            accuracy = (evaluate_random or evaluate)(random_mask(importance, size, rng), control_sets)
            curve.append({"num_pruned": size, "method": "random", "draw": draw, **accuracy})

    if not any(0 < size <= max_best_k for size in sizes):
        raise ValueError(f"sizes: {list(sizes)}, expected at least one from 1 to max_best_k: {max_best_k}")
    masks = nested_masks(importance, sizes, rescore)
    for size, mask in masks.items():
        accuracy = evaluate(mask, test_sets)
        curve.append({"num_pruned": size, "method": "importance", "draw": 0, **accuracy})
        prune_randomly(size, range(num_random if size else 0))
    candidates = [e for e in curve if e["method"] == "importance" and 0 < e["num_pruned"] <= max_best_k]
    best_k = int(max(candidates, key=lambda e: (e[chosen_on], -e["num_pruned"]))["num_pruned"])
    prune_randomly(best_k, range(num_random, num_random_at_best))
    mask = masks[best_k]
    names = [unit_name(group, unit) for group, kept in mask.items() for unit in (~kept).nonzero().flatten().tolist()]
    return PruningResult(unit, curve, best_k, chosen_on, mask, names)
