"""How good is a model? What is measured on test rows, while training and after it.

Processes that train together share the rows of an evaluation: each measures its part, and what they counted is summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ftmech_hf.models.memory import rows_of_logits
from ftmech_hf.statistics.crossing import count_right
from ftmech_hf.tasks import Rows, RowStream, Task
from ftmech_hf.tasks.schema import Offer
from ftmech_hf.training.objectives import AnswerOnly, Batch, Documents, NextToken, Objective
from ftmech_hf.training.objectives.base import loss_on

LOSS_ROWS, LOGIT_BYTES = 32, 2**31
"""Rows whose logits at all positions are in memory at a time, at most; and how much these may take."""


def logit_batches(model: nn.Module, rows: Rows) -> Iterable[Batch]:
    """Rows in batches whose logits fit into :data:`LOGIT_BYTES`, of a row at least."""
    whole: Any = getattr(model, "module", model)  # what processes share is wrapped
    size = min(LOSS_ROWS, rows_of_logits(whole.config, rows.token_ids.shape[1], LOGIT_BYTES))
    return (Batch.of(rows[place : place + size]) for place in range(0, len(rows), size))


def answer_logits(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Logits (B, V) at the position that predicts the answer of rows (B, T)."""
    # Nothing is generated, and with a cache keys are copies that round differently on some processors.
    logits: Tensor = model(token_ids[:, :-2], logits_to_keep=1, use_cache=False).logits
    return logits[:, -1].float()


@torch.no_grad()
def count_answers(model: nn.Module, token_ids: Tensor, *, batch_size: int = 256) -> int:
    """Rows (B, T) whose answer has the highest logit of the whole vocabulary."""
    device = next(model.parameters()).device
    right = 0
    for rows in token_ids.split(batch_size):
        rows = rows.to(device)
        right += int((answer_logits(model, rows).argmax(-1) == rows[:, -2]).sum())
    return right


def answer_accuracy(model: nn.Module, token_ids: Tensor, *, batch_size: int = 256) -> float:
    """Share of rows (B, T) whose answer has the highest logit of the whole vocabulary."""
    return count_answers(model, token_ids, batch_size=batch_size) / len(token_ids)


@torch.no_grad()
def mean_loss(model: nn.Module, objective: Objective, batches: Iterable[Batch]) -> float:
    """The loss (nats) of an objective that needs no reference, a mean over all that it counts in all batches."""
    total, counted = summed_loss(model, objective, batches)
    return total / counted


@torch.no_grad()
def summed_loss(model: nn.Module, objective: Objective, batches: Iterable[Batch]) -> tuple[float, float]:
    """The loss (nats) summed over all that an objective counts, and how much that is."""
    device = next(model.parameters()).device
    total, counted = 0.0, 0.0
    for batch in batches:
        number = objective.weight(batch)
        if not number:  # the mean of nothing is no number
            continue
        total += float(loss_on(model, objective, batch.to(device))) * number
        counted += number
    return total, counted


def documents_mean_loss(model: nn.Module, token_ids: Tensor, *, batch_size: int = LOSS_ROWS) -> float:
    """Cross-entropy (nats) of packed rows (B, T), a mean over all tokens that are predicted."""
    return mean_loss(model, Documents(), map(Batch, token_ids.split(batch_size)))


@torch.no_grad()
def count_texts(model: nn.Module, batches: Iterable[Batch]) -> int:
    """Rows of which every token of the answer is the most likely one after the right tokens before it.

    That is whether greedy decoding begins with the answer.
    """
    device, objective = next(model.parameters()).device, AnswerOnly()
    right = 0
    for batch in batches:
        assert batch.answers is not None
        shown = objective.shown(batch.to(device))
        given = model(shown.token_ids, **shown.options).logits[:, -batch.from_first :].argmax(-1).cpu()
        last = slice(-batch.from_first, None)
        agrees = (given == batch.token_ids[:, last]) | ~batch.answers[:, last]
        right += int(agrees.all(1).sum())
    return right


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
        self._rows: dict[tuple[str, int, int], Rows] = {}

    def __len__(self) -> int:
        return len(self.test_sets)

    def num_rows(self, wanted: int) -> int:
        """Rows of each test set that are evaluated: as many as wanted, if there are so many."""
        there = [stream.task.num_rows(stream.split) for stream in self.test_sets.values()]
        return min([wanted, *(number for number in there if number is not None)])

    def __call__(self, model: nn.Module, sizes: Sequence[int], near: float | None = None) -> dict[str, float]:
        """Measure all test sets; the model is left in evaluation mode.

        Args:
            model: that is trained.
            sizes: the first rows of each test set that are measured; further ones are gone on to where an accuracy
                may be ``near`` a threshold.
            near: that threshold, if there is one.

        Returns:
            ``MEASURE/NAME`` -> value, and ``eval_rows/NAME`` -> rows of an accuracy that took more than ``sizes[0]``.
        """
        model.eval()
        found: dict[str, float] = {}
        for name in self.test_sets:
            for measure in self.measures:
                if measure == "accuracy":
                    right, number = count_right(lambda at, name=name: self._count(model, name, at), sizes, near)  # type: ignore[misc]
                    found[f"accuracy/{name}"] = right / number
                    if number > sizes[0]:
                        found[f"eval_rows/{name}"] = number
                else:
                    rows, shared = share_rows(self._rows_of(name, slice(0, sizes[0])))
                    sums = summed_loss(model, self.objective, logit_batches(model, rows))
                    total, counted = sum_of_processes(model, *sums) if shared else sums
                    found[f"{measure}/{name}"] = total / counted
        return found

    def _count(self, model: nn.Module, name: str, at: slice) -> int:
        rows, shared = share_rows(self._rows_of(name, at))
        if rows.answers is None:
            right = count_answers(model, torch.from_numpy(rows.token_ids))
        else:
            right = count_texts(model, logit_batches(model, rows))
        return int(sum_of_processes(model, right)[0]) if shared else right

    def _rows_of(self, name: str, at: slice) -> Rows:
        key = (name, at.start, at.stop)
        if key not in self._rows:
            self._rows[key] = self.test_sets[name].rows(at.start, at.stop)
        return self._rows[key]


def share_rows(rows: Rows) -> tuple[Rows, bool]:
    """The rows that this process measures, and whether others measure the rest.

    All of them, unless the processes that train together can have equally many: a sharded model computes in all
    processes at once, and so they must have as many batches.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return rows, False
    processes = dist.get_world_size()
    if processes == 1 or len(rows) % processes:
        return rows, False
    size = len(rows) // processes
    return rows[dist.get_rank() * size :][:size], True


def sum_of_processes(model: nn.Module, *values: float) -> list[float]:
    """Each value summed over all processes, exactly if they are whole numbers; all of them must call this together."""
    sums = torch.tensor(values, dtype=torch.float64, device=next(model.parameters()).device)
    dist.all_reduce(sums)
    found: list[float] = sums.tolist()
    return found


def in_words(found: Mapping[str, float]) -> str:
    """The first two of what was measured, for a progress bar."""
    measured = [(name, value) for name, value in found.items() if not name.startswith("eval_rows/")]
    return ", ".join(
        f"{name.partition('/')[2]} {value:.1%}" if name.startswith("accuracy/") else f"{name} {value:.3f}"
        for name, value in measured[:2]
    )
