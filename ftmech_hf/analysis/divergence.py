"""How far is a model from the exact distribution of its data, and what loss is the lowest possible?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.statistics.measures import kl_from_truth


@dataclass(frozen=True)
class DivergenceResult:
    """A model beside the truth, in nats per token, for parts of the rows by name.

    Attributes:
        kl: mean of KL(truth || model), the model's excess over the lowest possible loss in expectation over tokens.
        loss: mean cross-entropy of the model on the tokens that came.
        lowest_loss: the same for a model that predicts the truth.
        tokens: how many predicted tokens each part has.
    """

    kl: dict[str, float]
    loss: dict[str, float]
    lowest_loss: dict[str, float]
    tokens: dict[str, int]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per part."""
        return [
            {"part": part, "kl": self.kl[part], "loss": self.loss[part], "lowest_loss": self.lowest_loss[part],
             "tokens": self.tokens[part]}
            for part in self.kl
        ]  # fmt: skip

    def summary(self) -> dict[str, float]:
        """KL of each part."""
        return dict(self.kl)


def divergence_from_truth(
    logits: Tensor, truth: Tensor, token_ids: Tensor, parts: Mapping[str, slice]
) -> DivergenceResult:
    """Compare predictions with the exact next-token distribution.

    Args:
        logits: (B, T - 1, V) of a causal model on all but the last token.
        truth: probabilities (B, T - 1, V), each row summing to 1.
        token_ids: the rows themselves (B, T).
        parts: name -> positions of its tokens in a row; the first token of a row is never predicted.

    Raises:
        ValueError: shapes that do not fit together.
    """
    expected = (token_ids.shape[0], token_ids.shape[1] - 1)
    if logits.shape != truth.shape or logits.shape[:2] != expected:
        raise ValueError(
            f"logits {tuple(logits.shape)}, truth {tuple(truth.shape)}: expected both {expected} and a vocabulary"
        )
    log_model, truth = F.log_softmax(logits.double(), dim=-1), truth.double()
    log_truth = truth.log()
    kl = kl_from_truth(log_model, truth)
    came = token_ids[:, 1:, None]
    loss, lowest = (-each.gather(-1, came)[..., 0] for each in (log_model, log_truth))
    places = torch.arange(token_ids.shape[1])
    predicted = {name: places[part][places[part] > 0] - 1 for name, part in parts.items()}
    return DivergenceResult(
        kl={name: float(kl[:, chosen].mean()) for name, chosen in predicted.items()},
        loss={name: float(loss[:, chosen].mean()) for name, chosen in predicted.items()},
        lowest_loss={name: float(lowest[:, chosen].mean()) for name, chosen in predicted.items()},
        tokens={name: len(chosen) * len(token_ids) for name, chosen in predicted.items()},
    )
