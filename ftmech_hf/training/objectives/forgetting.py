"""Keep one answer and forget another: gradient difference, and negative preference optimization with and without start.

All take pairs: the chosen rows are kept, the rejected ones forgotten, whether they answer one prompt or two. ``l`` is
the negative log-likelihood of an answer, a sum over its tokens; rows weigh alike, whatever their answers' lengths.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.tasks.schema import Offer
from ftmech_hf.training.objectives.base import IGNORED, Batch, Objective, Shown, joined, show_rows, targets_of
from ftmech_hf.training.objectives.preference import answer_log_probs

ASCENT_ENDS = 3
"""Forgetting by ascent is bounded: an answer that costs this many times what a guess does is forgotten, and is left."""


class Forgotten(NamedTuple):
    """Answers that are to be forgotten.

    Attributes:
        losses: ``l`` of each, (B,).
        before: the same of the model that training started from, where it is known.
        lengths: their tokens, (B,).
        vocabulary: how many tokens a guess is among.
    """

    losses: Tensor
    before: Tensor | None
    lengths: Tensor
    vocabulary: int

    @property
    def per_token(self) -> Tensor:
        """Nats per token, (B,)."""
        return self.losses / self.lengths


@dataclass(frozen=True, kw_only=True)
class Forgetting(Objective):
    """What its kinds share: ``retain_weight * R + forget_weight * F``; each has an F of its own."""

    needs: ClassVar[Offer] = "pairs"
    compares: ClassVar[bool] = False
    """Whether F compares with the start."""

    retain: Literal["nll", "kl"] = field(
        default="nll",
        metadata={"help": "how what is chosen is kept: by its likelihood, or by staying near the start's distribution"},
    )
    retain_weight: float = field(default=1.0, metadata={"help": "of keeping"})
    forget_weight: float = field(default=1.0, metadata={"help": "of forgetting"})

    def __post_init__(self) -> None:
        for name in ("retain_weight", "forget_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: {getattr(self, name)}, expected 0 or more")

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """Whether anything compares with the start."""
        return self.compares or self.retain == "kl"

    def shown(self, batch: Batch) -> Shown:
        """The chosen rows, and the rejected ones after them."""
        both = joined(batch)
        return show_rows(both, predicted=both.from_first)

    def loss(self, logits: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
        """The mean over pairs."""
        both, rows = joined(batch), len(batch)
        assert both.answers is not None
        losses = -answer_log_probs(logits, both)
        before = None if reference is None else -answer_log_probs(reference, both)[rows:]
        lengths = both.answers[:, 1:].sum(1)
        if self.retain == "nll":
            kept = losses[:rows] / lengths[:rows]
        else:
            assert reference is not None
            kept = divergence_from(reference, logits, both)[:rows] / lengths[:rows]
        forgotten = Forgotten(losses[rows:], before, lengths[rows:], logits.shape[-1])
        return self.retain_weight * kept.mean() + self.forget_weight * self.forget(forgotten).mean()

    @abstractmethod
    def forget(self, rows: Forgotten) -> Tensor:
        """F of each row, (B,)."""

    def weight(self, batch: Batch) -> int:
        """The pairs."""
        return len(batch)


@dataclass(frozen=True, kw_only=True)
class GradientDifference(Forgetting):
    """Descend on what is kept, ascend on what is forgotten (GradDiff, Liu et al., arXiv 2203.12817).

    Ascent has no end of its own: it ends at :data:`ASCENT_ENDS` times the loss of a guess, and a run that got there
    says so.
    """

    def forget(self, rows: Forgotten) -> Tensor:
        """Minus nats per token, bounded."""
        return -rows.per_token.clamp(max=_end(rows.vocabulary))

    def at_an_end(self, logits: Tensor, batch: Batch) -> Tensor:
        """Where the ascent came to its end."""
        both = joined(batch)
        assert both.answers is not None
        per_token = (-answer_log_probs(logits, both) / both.answers[:, 1:].sum(1))[len(batch) :]
        return per_token >= _end(logits.shape[-1])

    def warning(self, share: float) -> str:
        """What ended, and what ends later."""
        return (
            f"forget_weight: {share:.0%} of the rejected answers of the last step cost {ASCENT_ENDS} times a guess or "
            "more, where forgetting ends; a smaller forget_weight or lr leaves more of the model"
        )


@dataclass(frozen=True, kw_only=True)
class Unlearning(GradientDifference):
    """Learn the chosen answer and unlearn the rejected one (Jain et al., arXiv 2407.10264): GradDiff by its weights."""

    forget_weight: float = field(default=0.1, metadata={"help": "of forgetting"})


@dataclass(frozen=True, kw_only=True)
class NegativePreference(Forgetting):
    """NPO (Zhang et al., arXiv 2404.05868): forget what the start would answer, the less the more it is forgotten."""

    compares: ClassVar[bool] = True

    beta: float = field(default=0.1, metadata={"help": "how soon forgetting slows down as an answer is forgotten"})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_beta(self.beta)

    def forget(self, rows: Forgotten) -> Tensor:
        """``-(2 / beta) log sigmoid(beta (l - l of the start))``."""
        assert rows.before is not None
        return -2 / self.beta * F.logsigmoid(self.beta * (rows.losses - rows.before))


@dataclass(frozen=True, kw_only=True)
class SimpleNegativePreference(Forgetting):
    """SimNPO (Fan et al., arXiv 2410.07163): NPO by nats per token, without a start to compare with."""

    forget_weight: float = field(default=0.125, metadata={"help": "of forgetting"})
    beta: float = field(default=4.5, metadata={"help": "how soon forgetting slows down as an answer is forgotten"})
    margin: float = field(default=0.0, metadata={"help": "nats per token that an answer is to cost beyond"})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_beta(self.beta)
        if not math.isfinite(self.margin):
            raise ValueError(f"margin: {self.margin}, expected a number")

    def forget(self, rows: Forgotten) -> Tensor:
        """``-(2 / beta) log sigmoid(beta (l / tokens - margin))``."""
        return -2 / self.beta * F.logsigmoid(self.beta * (rows.per_token - self.margin))


def _end(vocabulary: int) -> float:
    return ASCENT_ENDS * math.log(vocabulary)


def _check_beta(beta: float) -> None:
    if not 0 < beta < math.inf:
        raise ValueError(f"beta: {beta}, expected a number above 0")


def divergence_from(reference: Tensor, logits: Tensor, batch: Batch) -> Tensor:
    """KL divergence (nats) of the reference from the model, a sum over the tokens of each answer, (B,)."""
    last = slice(-batch.from_first, None)
    counted = targets_of(batch, batch.answers)[:, last] != IGNORED
    before, now = (each[:, last].float().log_softmax(-1) for each in (reference, logits))
    return torch.where(counted, (before.exp() * (before - now)).sum(-1), 0.0).sum(1)
