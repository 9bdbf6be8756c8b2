"""The rows of a step, shared by processes and cut in parts, so that every token counts alike wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from ftmech_hf.tasks import RowStream
from ftmech_hf.training.objectives import Batch
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss

Weights = dict[str, float]
"""``weight`` and ``feature_weight``, as :class:`~ftmech_hf.training.total_loss.TotalLoss` takes them."""


class Parts:
    """What each process computes one after another in each step.

    Step s of process r of R is rows ``[s*B + r*B/R, s*B + (r+1)*B/R)`` of the stream: data order needs no state.
    """

    def __init__(self, stream: RowStream, config: TrainConfig, total: TotalLoss, accelerator: Accelerator) -> None:
        self.stream, self.config, self.total, self.accelerator = stream, config, total, accelerator

    def of_step(self, step: int) -> list[tuple[Batch, Weights]]:
        """This process' rows of a step, on its device, in parts with their weights."""
        share = self.config.batch_size // self.accelerator.num_processes
        first = step * self.config.batch_size + self.accelerator.process_index * share
        rows, size = self.stream.rows(first, first + share), share // self.config.gradient_accumulation_steps
        parts = [Batch.of(rows[place : place + size]) for place in range(0, share, size)]
        objective = self.total.objective
        weights = self._weights(parts, objective.weight)  # counted here, where no device is waited for
        of_features = self._weights(parts, objective.num_shown) if self.total.needs_features else weights
        return [
            (part.to(self.accelerator.device), {"weight": weight, "feature_weight": of})
            for part, weight, of in zip(parts, weights, of_features, strict=True)
        ]

    def _weights(self, parts: Sequence[Batch], count: Callable[[Batch], float]) -> list[float]:
        """The weights of the parts' means, so that every token of a step counts alike in whichever part it is.

        Gradients are averaged over processes, so the weights of all of them together sum to their number.
        """
        if self.total.objective.rows_weigh_alike(parts[0]):
            return [1 / len(parts)] * len(parts)
        numbers = [count(part) for part in parts]
        everywhere = float(sum(numbers))
        if self.accelerator.num_processes > 1:
            here = torch.tensor(everywhere, device=self.accelerator.device)
            everywhere = float(self.accelerator.reduce(here, reduction="mean"))
        return [number / everywhere for number in numbers]
