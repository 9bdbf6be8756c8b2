"""Does removing a few neurons bring a capability back? (Jain et al., arXiv 2311.12786, App. D, Algorithm 3.)

The loss is the answers' cross-entropy on prompts of the *pretraining* capability. A neuron is an output row of a weight
matrix in a block, and its importance is the sum over the row of gradient x weight: to first order, how much the loss
falls when the row is set to zero. The K neurons with the largest importance are zeroed at once (single step).

Deviations: the paper does not say which matrices take part; here all 2-D weights of the blocks do, never embeddings,
unembedding, norms or biases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Importance = dict[str, Tensor]
"""Unit group (a weight matrix, or a layer's MLP activations) -> importance in nats of each of its neurons."""

Mask = dict[str, Tensor]
"""The same keys and shapes, bool: True = kept."""


def neuron_matrices(blocks: Sequence[tuple[str, nn.Module]]) -> dict[str, tuple[Tensor, int]]:
    """The weight matrices of named blocks: full name -> (weight, axis of its output neurons).

    GPT-2's ``Conv1D`` keeps weights as (in, out), so its output neurons are columns; ``Linear`` has them as rows.
    """
    return {
        f"{block_name}.{name}": (module.weight, 1 if isinstance(module, Conv1D) else 0)
        for block_name, block in blocks
        for name, module in block.named_modules()
        if isinstance(module, Conv1D | nn.Linear)
    }


def row_importance(matrices: Mapping[str, tuple[Tensor, int]], loss: Callable[[], Tensor]) -> Importance:
    """Gradient x weight, summed over each output neuron's row.

    Args:
        matrices: from :func:`neuron_matrices`.
        loss: computes the loss to be lowered, a scalar that depends on the weights.
    """
    weights = [weight for weight, _ in matrices.values()]
    gradients = torch.autograd.grad(loss(), weights)
    return {
        name: (gradient * weight.detach()).sum(dim=1 - axis).float().cpu()
        for (name, (weight, axis)), gradient in zip(matrices.items(), gradients, strict=True)
    }


def top_mask(importance: Importance, num_pruned: int) -> Mask:
    """Prune the ``num_pruned`` neurons of largest importance; ties go to the first. True = kept."""
    flat = torch.cat(list(importance.values()))
    if not 0 <= num_pruned <= len(flat):
        raise ValueError(f"num_pruned: {num_pruned}, expected 0 to {len(flat)}")
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[torch.sort(flat, descending=True, stable=True).indices[:num_pruned]] = False
    parts = kept.split([len(values) for values in importance.values()])
    return dict(zip(importance, parts, strict=True))


def random_mask(importance: Importance, num_pruned: int, rng: np.random.Generator) -> Mask:
    """Prune as many neurons, chosen at random: the control. True = kept."""
    shuffled = torch.from_numpy(rng.permutation(sum(len(values) for values in importance.values()))).float()
    parts = shuffled.split([len(values) for values in importance.values()])
    return top_mask(dict(zip(importance, parts, strict=True)), num_pruned)


@contextlib.contextmanager
def pruned_rows(matrices: Mapping[str, tuple[Tensor, int]], mask: Mask) -> Iterator[None]:
    """Zero the weight rows that ``mask`` does not keep; they come back on exit, bit for bit."""
    saved = {name: matrices[name][0].detach().clone() for name in mask}
    try:
        with torch.no_grad():
            for name, kept in mask.items():
                weight, axis = matrices[name]
                dropped = (~kept).nonzero().flatten().to(weight.device)
                weight.index_fill_(axis, dropped, 0.0)
        yield
    finally:
        with torch.no_grad():
            for name, values in saved.items():
                matrices[name][0].copy_(values)


@dataclass(frozen=True)
class PruningResult:
    """Accuracies under masks of growing size.

    Attributes:
        unit: what a neuron was: ``row`` (of a weight matrix) or ``activation`` (of an MLP).
        curve: one entry per (K, method, draw): ``num_pruned``, ``method`` (``importance`` or ``random``), ``draw``, and
            an accuracy per test set.
        best_k: the K in ``chosen_among`` with the best accuracy of ``chosen_on``; ties go to the smallest.
        chosen_on: the validation set that chose.
        pruned: names of the best mask's pruned neurons, ``matrix[number]``.
    """

    unit: str
    curve: list[dict[str, Any]]
    best_k: int
    chosen_on: str
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


def prune_sweep(
    importance: Importance,
    evaluate: Callable[[Mask, Sequence[str]], Mapping[str, float]],
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
) -> PruningResult:
    """Prune growing numbers of neurons, by importance and at random, and choose the best K on a validation set.

    Args:
        importance: of every neuron.
        evaluate: ``evaluate(mask, names)`` gives the accuracy under a mask on each named test set.
        unit: ``row`` or ``activation``.
        test_sets: names to evaluate after pruning by importance; ``chosen_on`` must be among them.
        control_sets: names to evaluate after pruning at random.
        sizes: the K to try.
        max_best_k: the chosen K is at most this (the paper revives with 5 to 15 neurons).
        chosen_on: name of the validation accuracy that chooses; report another, since a maximum is optimistic.
        num_random: random masks per K in the control.
        num_random_at_best: random masks at the chosen K, at least; masks differ widely, and this is what is compared.
        seed: of the random masks.
    """
    curve: list[dict[str, Any]] = []

    def prune_randomly(size: int, draws: range) -> None:
        for draw in draws:
            rng = np.random.default_rng([seed, size, draw])
            accuracy = evaluate(random_mask(importance, size, rng), control_sets)
            curve.append({"num_pruned": size, "method": "random", "draw": draw, **accuracy})

    for size in sizes:
        accuracy = evaluate(top_mask(importance, size), test_sets)
        curve.append({"num_pruned": size, "method": "importance", "draw": 0, **accuracy})
        prune_randomly(size, range(num_random if size else 0))
    candidates = [e for e in curve if e["method"] == "importance" and 0 < e["num_pruned"] <= max_best_k]
    if not candidates:
        raise ValueError(f"sizes: {list(sizes)}, expected at least one from 1 to max_best_k: {max_best_k}")
    best_k = int(max(candidates, key=lambda e: (e[chosen_on], -e["num_pruned"]))["num_pruned"])
    prune_randomly(best_k, range(num_random, num_random_at_best))
    mask = top_mask(importance, best_k)
    pruned = [f"{name}[{number}]" for name, kept in mask.items() for number in (~kept).nonzero().flatten().tolist()]
    return PruningResult(unit, curve, best_k, chosen_on, pruned)
