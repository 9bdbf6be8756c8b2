"""How good is a model? What is measured on test rows, while training and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ftmech_hf.tasks import Rows, RowStream, Task
from ftmech_hf.tasks.schema import Offer
from ftmech_hf.training.objectives import AnswerOnly, Batch, Documents, NextToken, Objective
from ftmech_hf.training.objectives.base import loss_on

LOSS_ROWS = 32
"""Rows whose logits at all positions are in memory at a time."""


def answer_logits(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Logits (B, V) at the position that predicts the answer of rows (B, T)."""
    # Nothing is generated, and with a cache keys are copies that round differently on some processors.
    logits: Tensor = model(token_ids[:, :-2], logits_to_keep=1, use_cache=False).logits
    return logits[:, -1].float()


@torch.no_grad()
def answer_accuracy(model: nn.Module, token_ids: Tensor, *, batch_size: int = 256) -> float:
    """Share of rows (B, T) whose answer has the highest logit of the whole vocabulary."""
    device = next(model.parameters()).device
    right = 0
    for rows in token_ids.split(batch_size):
        rows = rows.to(device)
        right += int((answer_logits(model, rows).argmax(-1) == rows[:, -2]).sum())
    return right / len(token_ids)


@torch.no_grad()
def mean_loss(model: nn.Module, objective: Objective, batches: Iterable[Batch]) -> float:
    """The loss (nats) of an objective that needs no reference, a mean over all that it counts in all batches."""
    device = next(model.parameters()).device
    total, counted = 0.0, 0
    for batch in batches:
        number = objective.weight(batch)
        total += float(loss_on(model, objective, batch.to(device))) * number
        counted += number
    return total / counted


def documents_mean_loss(model: nn.Module, token_ids: Tensor, *, batch_size: int = LOSS_ROWS) -> float:
    """Cross-entropy (nats) of packed rows (B, T), a mean over all tokens that are predicted."""
    return mean_loss(model, Documents(), map(Batch, token_ids.split(batch_size)))


@torch.no_grad()
def text_accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """Share of rows of which every token of the answer is the most likely one after the right tokens before it.

    That is whether greedy decoding begins with the answer.
    """
    device, objective = next(model.parameters()).device, AnswerOnly()
    right = number = 0
    for batch in batches:
        assert batch.answers is not None
        shown = objective.shown(batch.to(device))
        given = model(shown.token_ids, **shown.options).logits[:, -batch.from_first :].argmax(-1).cpu()
        last = slice(-batch.from_first, None)
        agrees = (given == batch.token_ids[:, last]) | ~batch.answers[:, last]
        right, number = right + int(agrees.all(1).sum()), number + len(batch)
    return right / number


MEASURED_BY: dict[Offer, type[Objective]] = {"documents": Documents, "answers": AnswerOnly, "tokens": NextToken}
"""Whose loss is logged of a task, by what its rows have: the first of these."""


class Evaluation:
    """The test sets of a run; their rows are made once.

    Args:
        test_sets: test rows by name.
        task: what is trained on; it says what is measured.
    """

    def __init__(self, test_sets: Mapping[str, RowStream], task: Task) -> None:
        self.test_sets, self.measures = test_sets, task.measures
        self.objective = next(kind() for offer, kind in MEASURED_BY.items() if offer in task.offers)
        self._rows: dict[tuple[str, int], Rows] = {}

    def __len__(self) -> int:
        return len(self.test_sets)

    def num_rows(self, wanted: int) -> int:
        """Rows of each test set that are evaluated: as many as wanted, if there are so many."""
        there = [stream.task.num_rows(stream.split) for stream in self.test_sets.values()]
        return min([wanted, *(number for number in there if number is not None)])

    def __call__(self, model: nn.Module, number: int) -> dict[str, float]:
        """``MEASURE/NAME`` -> value, on the first rows of each test set; the model is left in evaluation mode."""
        model.eval()
        found = {}
        for name, stream in self.test_sets.items():
            if (name, number) not in self._rows:
                self._rows[name, number] = stream.rows(0, number)
            for measure in self.measures:
                found[f"{measure}/{name}"] = self._measure(model, measure, self._rows[name, number])
        return found

    def _measure(self, model: nn.Module, measure: str, rows: Rows) -> float:
        if measure == "accuracy" and rows.answers is None:
            return answer_accuracy(model, torch.from_numpy(rows.token_ids))
        batches = (Batch.of(rows[place : place + LOSS_ROWS]) for place in range(0, len(rows), LOSS_ROWS))
        return text_accuracy(model, batches) if measure == "accuracy" else mean_loss(model, self.objective, batches)


def in_words(found: Mapping[str, float]) -> str:
    """The first two of what was measured, for a progress bar."""
    return ", ".join(
        f"{name.partition('/')[2]} {value:.1%}" if name.startswith("accuracy/") else f"{name} {value:.3f}"
        for name, value in list(found.items())[:2]
    )
