"""The rows of a step, shared by processes and cut in parts, so that every token counts alike wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from ftmech_hf.tasks import RowStream
from ftmech_hf.training.making_ahead import MadeAhead
from ftmech_hf.training.objectives import AnswerOnly, Batch
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.total_loss import TotalLoss

Weights = dict[str, float | Tensor]
"""The four weights of a part, as :class:`~ftmech_hf.training.total_loss.TotalLoss` takes them."""

AHEAD = {"cuda": 16}
"""Steps whose rows are made ahead by a thread, by the device that computes. On a CPU there is no core to spare."""


class _Made(NamedTuple):
    """The parts of a step on the CPU, and what was counted of each; None where all weigh alike."""

    parts: list[Batch]
    counts: list[float] | None
    feature_counts: list[float] | None
    answer_counts: list[float] | None


class Parts:
    """What each process computes one after another in each step.

    Step s of process r of R is rows ``[s*B + r*B/R, s*B + (r+1)*B/R)`` of the stream: data order needs no state.
    """

    def __init__(self, stream: RowStream, config: TrainConfig, total: TotalLoss, accelerator: Accelerator) -> None:
        self.stream, self.config, self.total, self.accelerator = stream, config, total, accelerator
        self._ahead: MadeAhead[_Made] | None = None
        self._latest: tuple[int, list[tuple[Batch, Weights]]] | None = None

    def of_step(self, step: int) -> list[tuple[Batch, Weights]]:
        """This process' rows of a step, on its device, in parts with their weights."""
        if self._latest is None or self._latest[0] != step:
            parts, counts, feature_counts, answer_counts = self._made(step)
            weights = self._weights(len(parts), counts)
            of_features = self._weights(len(parts), feature_counts) if self.total.needs_features else weights
            of_answers = self._weights(len(parts), answer_counts) if self.total.counts_answers else weights
            ready: list[tuple[Batch, Weights]] = [
                (
                    part.to(self.accelerator.device),
                    {
                        "weight": weight,
                        "feature_weight": of_feature,
                        "row_weight": 1 / len(parts),
                        "answer_weight": of_answer,
                    },
                )
                for part, weight, of_feature, of_answer in zip(parts, weights, of_features, of_answers, strict=True)
            ]
            self._latest = step, ready
        return self._latest[1]

    def stop(self) -> None:
        """Make nothing ahead any more."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def _made(self, step: int) -> _Made:
        depth = AHEAD.get(self.accelerator.device.type, 0)
        if not depth:
            return self._make(step)
        if self._ahead is None or self._ahead.next != step:
            self.stop()
            self._ahead = MadeAhead(self._make, step, max(self.config.last_step, step + 1), depth=depth)
        return self._ahead.take()

    def _make(self, step: int) -> _Made:
        """Made and counted on the CPU, where no device is waited for."""
        share = self.config.batch_size // self.accelerator.num_processes
        first = step * self.config.batch_size + self.accelerator.process_index * share
        rows, size = self.stream.rows(first, first + share), share // self.config.gradient_accumulation_steps
        parts = [Batch.of(rows[place : place + size]) for place in range(0, share, size)]
        objective, counts, feature_counts, answer_counts = self.total.objective, None, None, None
        if not objective.rows_weigh_alike(parts[0]):
            counts = [objective.weight(part) for part in parts]
            if self.total.needs_features:
                feature_counts = [float(objective.num_shown(part)) for part in parts]
        answers = AnswerOnly()
        if self.total.counts_answers and not answers.rows_weigh_alike(parts[0]):
            answer_counts = [float(answers.weight(part)) for part in parts]
        if self.accelerator.device.type == "cuda":
            parts = [part.pinned() for part in parts]
        return _Made(parts, counts, feature_counts, answer_counts)

    def _weights(self, parts: int, counts: Sequence[float] | None) -> Sequence[float | Tensor]:
        """The weights of the parts' means, so that every token of a step counts alike in whichever part it is.

        Gradients are averaged over processes, so the weights of all of them together sum to their number.
        """
        if counts is None:
            return [1 / parts] * parts
        everywhere = float(sum(counts))
        if self.accelerator.num_processes == 1:
            return [number / everywhere for number in counts]
        # What the others counted stays on the device: a number of the host would have to be waited for.
        here = torch.full((), everywhere, device=self.accelerator.device)
        mean = self.accelerator.reduce(here, reduction="mean").double()
        return [(number / mean).float() for number in counts]
