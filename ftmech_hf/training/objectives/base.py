"""What an objective is: how rows become what a model is shown, a loss, and the weight of rows among others.

A row of a procedural task ends ``... ANSWER <eos>``: the answer is the last token but one, and all rows are equally
long. Rows of text differ in length and say themselves which of their tokens are answers.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ftmech_hf.tasks.schema import Offer, Rows

IGNORED = -100
"""The target of a position that predicts nothing."""


@dataclass(frozen=True)
class Batch:
    """Rows of one step, or the part of them that is computed at once.

    Attributes:
        token_ids: whole rows, int64 (B, T).
        answers: the tokens that a model is to answer with, bool (B, T); None for rows of one shape, whose answer is
            their last token but one, and for packed documents of which nobody knows.
        real: False where a row is filled up on its right, bool (B, T); None if no row is.
        from_first: how many columns there are from the first with an answer to the last.
        num_answered: how many tokens each answer has, (B,), always on the CPU; None where nobody has counted them.
        rejected: rows (B, T) with the same prompts and answers that are not wanted, where there are any.
        kept: numbers of rows of earlier tasks among those that were kept, int64 (B,), -1 of new rows; always on the
            CPU, where places are counted. None if there are none.
    """

    token_ids: Tensor
    answers: Tensor | None = None
    real: Tensor | None = None
    from_first: int = 2
    num_answered: NDArray[np.int64] | None = None
    rejected: Batch | None = None
    kept: Tensor | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def of(cls, rows: Rows) -> Batch:
        """Rows as tensors on the CPU, without columns that are padding in all of them."""
        kept = None if rows.kept is None else torch.from_numpy(rows.kept)
        if rows.lengths is None:
            answers = None if rows.answers is None else torch.from_numpy(rows.answers)
            num_answered = None if rows.answers is None else rows.answers[:, 1:].sum(1)
            return cls(torch.from_numpy(rows.token_ids), answers, num_answered=num_answered, kept=kept)
        pair = (rows,) if rows.rejected is None else (rows, rows.rejected)
        width = max(int(each.lengths.max()) for each in pair if each.lengths is not None)
        made = [cls._of_width(each, width) for each in pair]
        return dataclasses.replace(made[0], rejected=made[1] if len(made) > 1 else None, kept=kept)

    @classmethod
    def _of_width(cls, rows: Rows, width: int) -> Batch:
        assert rows.answers is not None
        assert rows.lengths is not None
        real = np.arange(width) < rows.lengths[:, None]
        answers = rows.answers[:, :width]
        return cls(
            torch.from_numpy(rows.token_ids[:, :width]),
            torch.from_numpy(answers),
            None if real.all() else torch.from_numpy(real),
            from_first=width - int(answers.any(0).argmax()),
            num_answered=answers[:, 1:].sum(1),
        )

    def to(self, device: torch.device) -> Batch:
        """The same rows on a device, which is not waited for."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same rows in memory that a GPU reads by itself, while the host goes on."""
        return self._changed(Tensor.pin_memory)

    def cloned(self) -> Batch:
        """The same rows in memory of their own."""
        return self._changed(Tensor.clone)

    def copy_(self, other: Batch) -> None:
        """Take the rows of a batch of the same shape, in the memory of this one."""
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)

    def _tensors(self) -> list[Tensor]:
        rejected = [] if self.rejected is None else self.rejected._tensors()
        return [each for each in (self.token_ids, self.answers, self.real) if each is not None] + rejected

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        answers, real = (None if each is None else change(each) for each in (self.answers, self.real))
        rejected = None if self.rejected is None else self.rejected._changed(change)
        return dataclasses.replace(
            self, token_ids=change(self.token_ids), answers=answers, real=real, rejected=rejected
        )


class Shown(NamedTuple):
    """What a model is called with.

    Attributes:
        token_ids: what it reads, (B, T).
        real: which of these positions go on with a token of their row, and not with padding, (B, T).
        options: keyword arguments beside ``token_ids``.
    """

    token_ids: Tensor
    real: Tensor
    options: dict[str, Any]


def show_rows(batch: Batch, *, predicted: int = 0) -> Shown:
    """All of the rows but their last column.

    Args:
        batch: rows of any length, filled up on their right.
        predicted: how many of the last positions predict something; 0 for all of them.
    """
    token_ids = batch.token_ids[:, :-1]
    options: dict[str, Any] = {"logits_to_keep": predicted}
    if batch.real is None:
        real = torch.ones_like(token_ids, dtype=torch.bool)
    else:
        real = batch.real[:, 1:]
        options |= {"attention_mask": batch.real[:, :-1].long()}
    return Shown(token_ids, real, options if batch.answers is None else {**options, "use_cache": False})


def joined(batch: Batch) -> Batch:
    """The chosen rows of pairs and their rejected ones as one batch (2B, T)."""
    other = batch.rejected
    assert other is not None
    assert batch.answers is not None
    assert other.answers is not None
    real = None if batch.real is None and other.real is None else torch.cat([_real(batch), _real(other)])
    return Batch(
        torch.cat([batch.token_ids, other.token_ids]),
        torch.cat([batch.answers, other.answers]),
        real,
        max(batch.from_first, other.from_first),
    )


def _real(batch: Batch) -> Tensor:
    return torch.ones_like(batch.token_ids, dtype=torch.bool) if batch.real is None else batch.real


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, which is not waited for: from pageable memory a copy waits for all before it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def count(chosen: Tensor) -> int:
    """How many of a mask on the CPU are True; one on a GPU would be waited for, and is refused."""
    return int(np.count_nonzero(chosen.numpy()))


def answered_places(counted: Tensor, num_answered: NDArray[np.int64] | None) -> Tensor:
    """The places of True in a mask, counted row after row, as indexing with the mask would take them.

    Args:
        counted: bool (B, T).
        num_answered: how many each row has, if that is known: without it the device is waited for.
    """
    flat = counted.flatten()
    if num_answered is None:
        return flat.nonzero()[:, 0]
    return torch.nonzero_static(flat, size=int(num_answered.sum()))[:, 0]


def targets_of(batch: Batch, counted: Tensor | None) -> Tensor:
    """What all positions but the last predict, (B, T - 1): :data:`IGNORED` for tokens that are not counted."""
    following = batch.token_ids[:, 1:]
    return following if counted is None else torch.where(counted[:, 1:], following, IGNORED)


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """What is minimised. A frozen dataclass: its fields, if it has any, are settings of its own."""

    needs: ClassVar[Offer] = "tokens"
    """What rows must have for it; a task says in ``offers`` what its rows have."""

    needs_reference: ClassVar[bool] = False
    """Whether :meth:`loss` compares with the outputs of the model that training started from."""

    @property
    def reads_layer(self) -> int | None:
        """The layer whose output (B, T, D), that of the last after its norm, :meth:`loss` is of; None for logits."""
        return None

    @abstractmethod
    def shown(self, batch: Batch) -> Shown:
        """What the model is called with."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch, reference: Tensor | None = None, /) -> Tensor:
        """The mean loss (nats) of a batch.

        Args:
            outputs: logits of the model, called with :meth:`shown`; or the output of :attr:`reads_layer`.
            batch: the rows.
            reference: the outputs of the model that training started from, if ``needs_reference``.
        """

    @abstractmethod
    def weight(self, batch: Batch) -> float:
        """How many things the mean of :meth:`loss` is over: the weight of a batch among other batches of a step."""

    def at_an_end(self, logits: Tensor, batch: Batch) -> Tensor:
        """Of pairs, which are at an end where training can do no more, bool (B,): none."""
        return torch.zeros(len(batch), dtype=torch.bool)

    def warning(self, share: float) -> str:
        """What is to be said where that share of the last step's rows is :meth:`at_an_end`."""
        raise NotImplementedError

    def num_shown(self, batch: Batch) -> int:
        """How many tokens the model is shown, without padding: the weight of a mean over its features."""
        return count(self.shown(batch).real)

    def rows_weigh_alike(self, batch: Batch) -> bool:
        """Whether all rows of the task have one weight, so that none has to be counted."""
        return batch.answers is None


def loss_on(model: nn.Module, objective: Objective, batch: Batch) -> Tensor:
    """An objective that needs no reference, on a batch."""
    shown = objective.shown(batch)
    return objective.loss(model(shown.token_ids, **shown.options).logits, batch)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of logits (B, T, V) at targets (B, T), but for those that are :data:`IGNORED`."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, answered: Tensor, answer_weight: float) -> Tensor:
    """The same, a mean in which targets that are ``answered``, bool (B, T), count ``answer_weight`` times."""
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    weights = (targets != IGNORED) * torch.where(answered, answer_weight, 1.0)
    return (each.view_as(targets) * weights).sum() / weights.sum()


def check_answer_weight(answer_weight: float) -> None:
    """Make sure that answers weigh something.

    Raises:
        ValueError: they do not.
    """
    if not 0 < answer_weight < math.inf:
        raise ValueError(f"answer_weight: {answer_weight}, expected a number above 0")
