"""Forget by misdirection: representation misdirection for unlearning (RMU, Li et al., arXiv 2403.03218)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ftmech_hf.tasks.schema import Offer
from ftmech_hf.training.objectives.base import Batch, Objective, Shown, joined, show_rows


@dataclass(frozen=True, kw_only=True)
class Misdirection(Objective):
    """Move one layer's output to a random direction where the rejected answer is predicted, and hold it elsewhere.

    Pairs are of two prompts here: where one prompt has both answers, its last place would be moved and held at once.
    Deviations: all weights are trained, and the places are those that predict the answers' tokens.
    """

    needs: ClassVar[Offer] = "pairs"
    needs_reference: ClassVar[bool] = True

    rmu_layer: int = field(default=1, metadata={"help": "whose output is moved, counted from 0"})
    steering: float = field(default=2.0, metadata={"help": "length of what the output is moved to"})
    retain_weight: float = field(default=1.0, metadata={"help": "of keeping"})
    forget_weight: float = field(default=1.0, metadata={"help": "of forgetting"})
    direction_seed: int = field(default=0, metadata={"help": "of the random direction"})

    def __post_init__(self) -> None:
        for name in ("rmu_layer", "steering", "retain_weight", "forget_weight", "direction_seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, expected 0 or more")

    @property
    def reads_layer(self) -> int:
        """The layer that is moved."""
        return self.rmu_layer

    def shown(self, batch: Batch) -> Shown:
        """The chosen rows, and the rejected ones after them; of their logits none is needed."""
        return show_rows(joined(batch), predicted=1)

    def loss(self, outputs: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over pairs of squared distances, each a mean over the places of an answer and over the width."""
        assert reference is not None
        both, rows = joined(batch), len(batch)
        assert both.answers is not None
        wanted = torch.cat([reference[:rows].float(), self.target(outputs).expand_as(outputs[rows:])])
        counted = both.answers[:, 1:]
        squared = torch.where(counted, (outputs.float() - wanted).square().mean(-1), 0.0).sum(1) / counted.sum(1)
        return self.retain_weight * squared[:rows].mean() + self.forget_weight * squared[rows:].mean()

    def target(self, outputs: Tensor) -> Tensor:
        """What the output is moved to, (D,): a direction of uniform numbers from 0 to 1, of length ``steering``."""
        return _direction(self.direction_seed, self.steering, outputs.shape[-1], outputs.device)

    def weight(self, batch: Batch) -> int:
        """The pairs."""
        return len(batch)


@functools.cache
def _direction(seed: int, length: float, width: int, device: torch.device) -> Tensor:
    """Kept on the device: copying it there in every step would hold the host up."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    return (length * drawn / drawn.norm()).to(device)
