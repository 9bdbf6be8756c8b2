"""Where does the answer look? Attention maps before and after fine-tuning (Jain et al., arXiv 2311.12786, App. G)."""

from __future__ import annotations

from collections.abc import Mapping
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
        groups: name -> token ids; what is in none of them is counted as ``other``.
    """
    masses = []
    for tokens in groups.values():
        members = torch.isin(token_ids, torch.as_tensor(tokens))
        masses.append((patterns * members[None, :, None, :]).sum(-1).mean(1))
    mass = torch.stack([*masses, 1 - torch.stack(masses).sum(0)], dim=-1)
    return AttentionResult(patterns[:, 0].numpy(), mass.numpy(), (*groups, "other"))


def attention_change(before: AttentionResult, after: AttentionResult) -> float:
    """Mean total-variation distance between two models' attention masses over groups, 0 (same) to 1 (disjoint)."""
    return float(0.5 * np.abs(before.mass - after.mass).sum(-1).mean())
