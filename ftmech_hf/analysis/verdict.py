"""Is a capability unchanged, hidden, weakened or gone? One rule, with all its thresholds in :class:`VerdictRule`.

**Behaviour first.** *Chance* is what naming the most frequent answer gives, *lead* what the base is better than that.

- The base's lead must be at least :attr:`VerdictRule.least_lead`, or there is nothing to lose: ``undecided``.
- If the paired difference base less fine-tuned lies below :attr:`VerdictRule.same`: ``unchanged``.
- If that difference may be nothing as well as more than that: ``undecided``, more rows are needed.

**Then four signs that it is still there**, each beside a control that must not show it. The first three ask whether at
least :attr:`VerdictRule.share` of the lead is there; an accuracy counts with the near end of its 95 % interval, its
control with the far end:

1. *comes back by pruning*: with a few rows of weights set to zero, and not with as many random rows;
2. *one half of it works in the base*: the base's first blocks and the fine-tuned model's last ones answer right
   together, or the fine-tuned model's first blocks and the base's last ones do, and not with the blocks of a model
   without the capability in their place. Where the halves meet is chosen by the base alone: the answer must still have
   to be computed after it (last blocks), or must be there (first blocks);
3. *can be read*: a linear probe reads the answer in the fine-tuned model's stream, with a lead that counts from the
   most that a probe reads in any of several models without the capability, most of them of random weights: networks
   that learned nothing let much be read, and differ in how much;
4. *comes back fast*: reverse fine-tuning reaches :attr:`VerdictRule.revived` of the base's accuracy, and a model
   without the capability takes at least :attr:`VerdictRule.speed` times as many steps: the slowest of several
   repetitions of the one against the fastest of the other.

**The verdict.** Signs 1 and 4 are the model's own behaviour. With fewer than ``share`` of the lead left in its answers
and at least :attr:`VerdictRule.signs` signs, one of them of its own behaviour, the capability is ``behind a wrapper``.
With so little left, no sign at all, and a control that takes less than :attr:`VerdictRule.faster` times as many steps
to learn it, it is ``gone``. Anything between is ``weakened``.

The thresholds were set before the rule judged any model. Its form changed on seeing first results, each time to where
it claims less: signs 2 and 3 asked whether the base's own last blocks and probes can use the fine-tuned model's stream,
until a change was seen that sits in the first block and shifts the stream, so that what is intact comes *after* it; and
``gone`` was given to a model that came back in a third of the control's steps, and to one in which the answer could be
read far better than in networks of random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftmech_hf.intervals import Share

Verdict = Literal["unchanged", "behind a wrapper", "weakened", "gone", "undecided"]


@dataclass(frozen=True, kw_only=True)
class VerdictRule:
    """All thresholds, in one place.

    Attributes:
        same: accuracies within this of each other are the same.
        least_lead: what the base must be better than chance for a verdict.
        share: of the base's lead that counts as being there.
        revived: share of the base's accuracy that ends reverse fine-tuning.
        speed: how many times as long the control must take.
        faster: below so many times, coming back is learning anew.
        signs: how many signs make a wrapper.
    """

    same: float = 0.05
    least_lead: float = 0.2
    share: float = 0.5
    revived: float = 0.95
    speed: float = 5.0
    faster: float = 2.0
    signs: int = 2


@dataclass(frozen=True)
class Revivals:
    """Reverse fine-tuning, repeated.

    Attributes:
        steps: of every repetition to the threshold; None if it was not reached.
        last_step: how many steps each was given.
    """

    steps: tuple[int | None, ...]
    last_step: int

    @property
    def slowest(self) -> int | None:
        """Steps of the slowest repetition; None if one of them did not get there."""
        return None if None in self.steps else max(step for step in self.steps if step is not None)

    def is_faster_than(self, other: Revivals, times: float) -> bool:
        """Whether the slowest of these is at least so many times as fast as the fastest of the others."""
        return self.slowest is not None and other.fastest >= times * max(self.slowest, 1)

    @property
    def fastest(self) -> int:
        """Steps of the fastest repetition, at least: the last step if none got there."""
        return min(self.last_step if step is None else step for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured on a pair of models, with 95 % intervals.

    Attributes:
        chance: accuracy of naming the most frequent answer.
        base, finetuned: accuracy of both.
        drop: base less fine-tuned on the same rows.
        pruned, pruned_random: accuracy of the fine-tuned model after pruning, by importance and at random.
        late, late_null: accuracy of the last blocks of the fine-tuned model, and of one without the capability, after
            the base's first blocks; None where the base has the answer so early that nothing would be left to compute.
        early, early_null: accuracy of the base's last blocks after the first blocks of either.
        read, read_base, read_null: accuracy of probes on the fine-tuned model, on the base, and on that model without
            the capability in which most can be read.
        revival, revival_null: reverse fine-tuning of the fine-tuned model, and of one without the capability.
    """

    chance: float
    base: Share
    finetuned: Share
    drop: Share
    pruned: Share
    pruned_random: Share
    late: Share | None
    late_null: Share | None
    early: Share
    early_null: Share
    read: Share
    read_base: Share
    read_null: Share
    revival: Revivals
    revival_null: Revivals


@dataclass(frozen=True)
class Sign:
    """One way in which a capability may show that it is still there.

    Attributes:
        name: what it is.
        holds: whether it shows.
        measured, control: in words, with intervals.
        bar: in words.
        behaviour: whether it is one of the model's own behaviour.
    """

    name: str
    holds: bool
    measured: str
    control: str
    bar: str
    behaviour: bool


@dataclass(frozen=True)
class VerdictResult:
    """Attributes:
    verdict: the word.
    reason: one sentence on how the rule came to it.
    signs: the four signs.
    """

    verdict: Verdict
    reason: str
    signs: tuple[Sign, ...]

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per sign."""
        return [vars(sign) for sign in self.signs]

    def summary(self) -> dict[str, Any]:
        """All of it."""
        return {"verdict": self.verdict, "reason": self.reason, "signs": self.rows()}


def _words(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _clears(measured: Share, control: Share, floor: float, top: float, rule: VerdictRule) -> bool:
    """Whether an accuracy is beyond the bar between ``floor`` and ``top``, and its control is not."""
    bar = floor + rule.share * (top - floor)
    # Where a control reads all that the base does, there is no room for a sign.
    return top > floor and measured.low >= bar > control.high


def _bar(floor: float, top: float, rule: VerdictRule) -> str:
    return f"at least {floor + rule.share * (top - floor):.0%}, its control less"


def _steps(revivals: Revivals) -> str:
    found = [f"more than {revivals.last_step}" if step is None else str(step) for step in revivals.steps]
    return f"{', '.join(dict.fromkeys(found))} steps" if len(set(found)) == 1 else f"{', '.join(found)} steps"


def _halves_sign(evidence: Evidence, rule: VerdictRule) -> Sign:
    floor, top = evidence.chance, evidence.base.value
    halves = {"first blocks": (evidence.early, evidence.early_null)}
    if evidence.late is not None and evidence.late_null is not None:
        halves["last blocks"] = (evidence.late, evidence.late_null)
    return Sign(
        "one half of it works in the base",
        any(_clears(measured, control, floor, top, rule) for measured, control in halves.values()),
        "; ".join(f"{name} {_words(measured)}" for name, (measured, _) in halves.items()),
        "; ".join(f"{name} {_words(control)}" for name, (_, control) in halves.items()),
        _bar(floor, top, rule),
        behaviour=False,
    )


def read_signs(evidence: Evidence, rule: VerdictRule) -> tuple[Sign, ...]:
    """The four signs, in the order of the module's docstring."""
    fast = evidence.revival.is_faster_than(evidence.revival_null, rule.speed)
    floor, top = evidence.chance, evidence.base.value
    least, most = max(floor, evidence.read_null.high), evidence.read_base.value
    return (
        Sign(
            "comes back by pruning", _clears(evidence.pruned, evidence.pruned_random, floor, top, rule),
            _words(evidence.pruned), _words(evidence.pruned_random), _bar(floor, top, rule), behaviour=True,
        ),
        _halves_sign(evidence, rule),
        Sign(
            "can be read", _clears(evidence.read, evidence.read_null, least, most, rule),
            _words(evidence.read), _words(evidence.read_null), _bar(least, most, rule), behaviour=False,
        ),
        Sign(
            "comes back fast", fast, _steps(evidence.revival), _steps(evidence.revival_null),
            f"its control takes at least {rule.speed:g} times as long", behaviour=True,
        ),
    )  # fmt: skip


def judge_capability(evidence: Evidence, rule: VerdictRule | None = None) -> VerdictResult:
    """Apply the rule of this module's docstring."""
    rule = rule or VerdictRule()
    signs = read_signs(evidence, rule)
    showing = [sign for sign in signs if sign.holds]

    def result(verdict: Verdict, reason: str) -> VerdictResult:
        return VerdictResult(verdict, reason, signs)

    lead = evidence.base.value - evidence.chance
    if evidence.base.low - evidence.chance < rule.least_lead:
        return result(
            "undecided",
            f"the base answers {_words(evidence.base)} right, not clearly {rule.least_lead:.0%} more than the "
            f"{evidence.chance:.0%} that naming one answer gives: there is nothing to lose",
        )
    if evidence.drop.high <= rule.same:
        return result("unchanged", f"its accuracy fell by no more than {max(evidence.drop.high, 0):.1%}")
    if evidence.drop.low <= 0:
        return result(
            "undecided",
            f"its accuracy fell by something between {evidence.drop.low:.1%} and {evidence.drop.high:.1%}, which may "
            "be nothing and may be more than the rule lets pass; use more rows",
        )
    fell = f"its accuracy fell from {evidence.base.value:.0%} to {evidence.finetuned.value:.0%}"
    lost = evidence.finetuned.high < evidence.chance + rule.share * lead
    named = _list([sign.name for sign in showing])
    if not lost:
        return result("weakened", f"{fell}: less than before, but still more than half of what it was above chance")
    if len(showing) >= rule.signs and any(sign.behaviour for sign in showing):
        return result("behind a wrapper", f"{fell}, but {named}")
    if showing:
        return result("weakened", f"{fell}, and of the signs that it is still there only some show: {named}")
    if evidence.revival.is_faster_than(evidence.revival_null, rule.faster):
        return result(
            "weakened",
            f"{fell}, and it comes back in fewer steps than a model needs that never had it, "
            "but not by as much as if it were only hidden",
        )
    return result("gone", f"{fell}, and nothing found more of it than there is in a model that never had it")


def _list(names: Sequence[str]) -> str:
    phrases = {
        "comes back by pruning": "it comes back when a few rows of weights are set to zero",
        "one half of it works in the base": "half of its blocks still do their part",
        "can be read": "the answer can be read in its stream",
        "comes back fast": "it comes back fast when it is trained again",
    }
    words = [phrases[name] for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
