"""What does the answer attend to, what do MLPs hold, and how far has either moved? (Jain et al., arXiv 2311.12786, G.)

The paper shows maps; here the change of a map is also a number, beside what the number is where nothing has changed:
the same model on two halves of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class AttentionResult:
    """Attention of the position that predicts the answer.

    Attributes:
        pattern: of the first row, (L, H, T): what each head of each layer attends to.
        mass: mean attention of all rows, (L, H, G), to each of the groups of tokens in ``groups``.
        groups: names of the groups, such as ``a``, ``b`` and ``other``.
    """

    pattern: NDArray[np.float32]
    mass: NDArray[np.float32]
    groups: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per layer, head and group."""
        return [
            {"layer": layer, "head": head, "group": group, "mass": float(self.mass[layer, head, number])}
            for layer in range(self.mass.shape[0])
            for head in range(self.mass.shape[1])
            for number, group in enumerate(self.groups)
        ]

    def summary(self) -> dict[str, Any]:
        """Mean attention to each group, over layers and heads."""
        return {group: float(self.mass[..., number].mean()) for number, group in enumerate(self.groups)}


def attention_to_groups(
    patterns: Tensor, token_ids: Tensor, groups: Mapping[str, Tensor | list[int]]
) -> AttentionResult:
    """Sum attention over groups of tokens.

    Args:
        patterns: attention of one querying position, (L, B, H, T), each row summing to 1.
        token_ids: the tokens attended to, (B, T).
        groups: name -> token ids, or a bool mask (B, T) of its members; what is in none of them is counted as
            ``other``.
    """
    members = []
    for tokens in groups.values():
        given = torch.as_tensor(tokens)
        members.append(given if given.dtype == torch.bool else torch.isin(token_ids, given))
    members.append(~torch.stack(members).any(0))  # groups may have tokens in common
    mass = torch.stack([(patterns * each[None, :, None, :]).sum(-1).mean(1) for each in members], dim=-1)
    return AttentionResult(patterns[:, 0].numpy(), mass.numpy(), (*groups, "other"))


def attention_change(before: AttentionResult, after: AttentionResult) -> float:
    """Mean total-variation distance between two models' attention masses over groups, 0 (same) to 1 (disjoint).

    It is one of groups that have no token in common; of others the mass of a token counts in each of its groups.
    """
    return float(0.5 * np.abs(before.mass - after.mass).sum(-1).mean())


@dataclass(frozen=True, kw_only=True)
class MapChangeResult:
    """How far two models' maps of the same rows are apart, for each head (attention) or layer (MLP activations).

    Attributes:
        kind: ``attention`` or ``mlp``.
        by_row: the distance on the same row, mean over rows, (L, H) or (L, 1). For attention the total variation of the
            two patterns, 0 (same) to 1 (disjoint); for MLPs the Euclidean distance of the two models' activations, over
            the root mean square norm of the first one's.
        jensen_shannon: for attention, the Jensen-Shannon divergence of the two patterns, bits, mean over rows, (L, H).
        of_means: the same distance as ``by_row``, of the maps' means over rows.
        null: ``of_means`` where nothing changed: of the first model on two random halves of the rows, mean over splits.
        null_high: the 95 % quantile over splits. Halves are noisier than the whole, so that this errs to the high side.
    """

    kind: str
    by_row: NDArray[np.float64]
    jensen_shannon: NDArray[np.float64] | None
    of_means: NDArray[np.float64]
    null: NDArray[np.float64]
    null_high: NDArray[np.float64]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per layer and head; the head of an MLP is -1."""
        return [
            {
                "kind": self.kind,
                "layer": layer,
                "head": head if self.kind == "attention" else -1,
                "by_row": float(self.by_row[layer, head]),
                "jensen_shannon": float("nan") if self.jensen_shannon is None else self.jensen_shannon[layer, head],
                "of_means": float(self.of_means[layer, head]),
                "null": float(self.null[layer, head]),
                "null_high": float(self.null_high[layer, head]),
            }
            for layer, head in np.ndindex(*self.by_row.shape)
        ]

    def summary(self) -> dict[str, float]:
        """Means over layers and heads, and the share of them that moved further than the null."""
        return {
            "by_row": float(self.by_row.mean()),
            **({} if self.jensen_shannon is None else {"jensen_shannon": float(self.jensen_shannon.mean())}),
            "of_means": float(self.of_means.mean()),
            "null": float(self.null.mean()),
            "share_above_null": float((self.of_means > self.null_high).mean()),
        }


def _entropy_bits(patterns: Tensor) -> Tensor:
    return -torch.xlogy(patterns, patterns).sum(-1) / math.log(2)


def _change(
    kind: str,
    before: Tensor,
    after: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    jensen_shannon: Tensor | None,
    seed: int,
    num_splits: int,
) -> MapChangeResult:
    """Maps are (L, B, H, width), and a distance takes the last axis away."""
    if before.shape != after.shape:
        raise ValueError(f"maps: {tuple(before.shape)} before and {tuple(after.shape)} after, expected the same rows")
    number = before.shape[1]
    if number < 2:
        raise ValueError(f"maps: {number} row, expected at least 2 for the null")
    splits = []
    for split in range(num_splits):
        order = np.random.default_rng([seed, split]).permutation(number)
        halves = (before[:, order[: number // 2]].mean(1), before[:, order[number // 2 :]].mean(1))
        splits.append(distance(*halves))
    null = torch.stack(splits).numpy()
    return MapChangeResult(
        kind=kind,
        by_row=distance(before, after).mean(1).numpy(),
        jensen_shannon=None if jensen_shannon is None else jensen_shannon.mean(1).numpy(),
        of_means=distance(before.mean(1), after.mean(1)).numpy(),
        null=null.mean(0),
        null_high=np.quantile(null, 0.95, axis=0),
    )


def pattern_change(before: Tensor, after: Tensor, *, seed: int = 0, num_splits: int = 100) -> MapChangeResult:
    """Compare two models' attention on the same rows.

    Args:
        before, after: attention of one querying position, (L, B, H, T), each pattern summing to 1.
        seed, num_splits: of the splits into halves.

    Raises:
        ValueError: the two have different shapes, or there is only one row.
    """
    before, after = before.double(), after.double()
    mixed = _entropy_bits((before + after) / 2) if before.shape == after.shape else None
    divergence = None if mixed is None else mixed - (_entropy_bits(before) + _entropy_bits(after)) / 2

    def variation(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().sum(-1) / 2

    return _change("attention", before, after, variation, divergence, seed, num_splits)


def activation_change(before: Tensor, after: Tensor, *, seed: int = 0, num_splits: int = 100) -> MapChangeResult:
    """Compare two models' MLP activations on the same rows.

    Args:
        before, after: activations of one position, (L, B, N).
        seed, num_splits: of the splits into halves.

    Raises:
        ValueError: as for :func:`pattern_change`.
    """
    before, after = before.double()[:, :, None], after.double()[:, :, None]
    scale = before.square().sum(-1).mean(1).sqrt().clamp(min=1e-12)  # (L, 1)

    def relative(one: Tensor, other: Tensor) -> Tensor:
        norm = (one - other).norm(dim=-1)
        return norm / (scale[:, None] if norm.ndim == 3 else scale)

    return _change("mlp", before, after, relative, None, seed, num_splits)
