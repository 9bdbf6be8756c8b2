"""What the verdict on a pair of models rests on: what each method contributes, and the signs that are read off it.

The rule itself is in :mod:`ftmech_hf.studies.diagnosis.verdict`. Accuracies have 95 % intervals; None stands for what
was not or could not be measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.shares import NOT_MEASURED


@dataclass(frozen=True)
class Revivals:
    """Reverse fine-tuning, repeated.

    Attributes:
        steps: of every repetition to the threshold; None if it was not reached.
        last_step: how many steps each was given; or a number for each.
    """

    steps: tuple[int | None, ...]
    last_step: int | tuple[int, ...]

    @property
    def bounds(self) -> list[tuple[int, float]]:
        """Of every repetition, at least and at most how many steps it takes."""
        last = self.last_step if isinstance(self.last_step, tuple) else (self.last_step,) * len(self.steps)
        return [
            (given, math.inf) if step is None else (step, step) for step, given in zip(self.steps, last, strict=True)
        ]

    @property
    def slowest(self) -> int | None:
        """Steps of the slowest repetition; None if one of them did not get there."""
        return None if None in self.steps else max(step for step in self.steps if step is not None)

    @property
    def fastest(self) -> int:
        """Steps of the fastest repetition, at least: what it was given if none got there."""
        return min(least for least, _ in self.bounds)

    def is_faster_than(self, other: Revivals, times: float) -> bool | None:
        """Whether the slowest of these is at least so many times as fast as the fastest of the others.

        None if neither was followed for long enough to tell.
        """
        least, most = (max(each) for each in zip(*self.bounds, strict=True))
        others_least, others_most = (min(each) for each in zip(*other.bounds, strict=True))
        if others_least >= times * max(most, 1):
            return True
        return False if others_most < times * max(least, 1) else None


@dataclass(frozen=True, kw_only=True)
class BehaviourEvidence:
    """What the models answer.

    Attributes:
        chance: accuracy of naming the most frequent answer.
        base, finetuned: accuracy of both.
        drop: base less fine-tuned on the same rows.
        null: accuracy of the control, a model without the capability.
        control: whether that model is known to have learned other things and never this; else it has random weights.
        same_tokens: whether both models read the questions as the same tokens.
        few_base: accuracy of the base on those of the rows that pruning and halves are judged on; None if on all.
    """

    chance: float
    base: Share
    finetuned: Share
    drop: Share
    null: Share | None = None
    control: bool = False
    same_tokens: bool = True
    few_base: float | None = None

    @property
    def floor(self) -> float:
        """What is right without the capability: by naming one answer, or by the control."""
        return max(self.chance, self.null.value) if self.null else self.chance

    @property
    def fall(self) -> str:
        """How much less is right than before, in words."""
        return f"its accuracy fell from {self.base.value:.0%} to {self.finetuned.value:.0%}"


@dataclass(frozen=True, kw_only=True)
class PruningEvidence:
    """What is right after rows of weights are set to zero.

    Attributes:
        pruned, pruned_random: accuracy of the fine-tuned model after pruning, by importance and at random.
        pruned_null: accuracy of the control after pruning rows chosen for it by importance.
    """

    pruned: Share | None = None
    pruned_random: Share | None = None
    pruned_null: Share | None = None


@dataclass(frozen=True, kw_only=True)
class HalvesEvidence:
    """What half of one model's blocks and the other half of another's answer together.

    Attributes:
        late, late_null: accuracy of the last blocks of the fine-tuned model, and of the control, after the base's first
            blocks.
        early, early_null: accuracy of the base's last blocks after the first blocks of either.
        late_blocks, early_blocks, num_blocks: how many blocks these halves have, and the model.
    """

    late: Share | None = None
    late_null: Share | None = None
    early: Share | None = None
    early_null: Share | None = None
    late_blocks: int | None = None
    early_blocks: int | None = None
    num_blocks: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReadingEvidence:
    """What linear probes read.

    Attributes:
        read, read_base, read_null: accuracy of probes on the fine-tuned model and on the base, and the most that is
            read where the capability is not.
    """

    read: Share | None = None
    read_base: Share | None = None
    read_null: Share | None = None


@dataclass(frozen=True, kw_only=True)
class RevivalEvidence:
    """How fast it comes back.

    Attributes:
        revival, revival_null: reverse fine-tuning of the fine-tuned model, and of the control.
        untaught, untaught_null: what both answer right afterwards, of questions whose answers it did not teach.
        untaught_base: what the base answers right of these.
        ahead: where neither came back, accuracy of the fine-tuned model less that of the control after the last step.
        gained: what the control answers right after that step more than before the first.
    """

    revival: Revivals | None = None
    revival_null: Revivals | None = None
    untaught: Share | None = None
    untaught_null: Share | None = None
    untaught_base: float | None = None
    ahead: Share | None = None
    gained: Share | None = None


Contribution = BehaviourEvidence | PruningEvidence | HalvesEvidence | ReadingEvidence | RevivalEvidence
"""What one method says to the rule."""


@dataclass(frozen=True, kw_only=True)
class Evidence(BehaviourEvidence, PruningEvidence, HalvesEvidence, ReadingEvidence, RevivalEvidence):
    """All that was measured on a pair of models."""

    @classmethod
    def gather(cls, contributions: Iterable[Contribution]) -> Evidence:
        """All contributions in one; what the models answer must be among them."""
        return cls(
            **{field.name: getattr(each, field.name) for each in contributions for field in dataclasses.fields(each)}
        )


@dataclass(frozen=True)
class Sign:
    """One way in which a capability may show that it is still there.

    Attributes:
        name: what it is.
        holds: whether it shows; None if it could not be measured.
        measured, control: in words, with intervals.
        bar: in words.
        behaviour: whether it is one of the model's own behaviour.
    """

    name: str
    holds: bool | None
    measured: str
    control: str
    bar: str
    behaviour: bool


def say_steps(revivals: Revivals | None) -> str:
    """Steps of every repetition in words; of one only if all are the same."""
    if revivals is None:
        return NOT_MEASURED
    bounds = zip(revivals.steps, revivals.bounds, strict=True)
    found = [f"more than {least}" if step is None else str(step) for step, (least, _) in bounds]
    return f"{', '.join(dict.fromkeys(found)) if len(set(found)) == 1 else ', '.join(found)} steps"


def say_list(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; nothing of nothing."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
