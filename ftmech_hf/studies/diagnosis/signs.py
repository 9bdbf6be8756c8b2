"""The signs that a lost capability is still there, and the thresholds of the rule that counts them.

What each asks, and why, stands in :mod:`ftmech_hf.studies.diagnosis.verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ftmech_hf.statistics.intervals import Share
from ftmech_hf.studies.diagnosis.evidence import Evidence, Sign, say_steps
from ftmech_hf.studies.diagnosis.shares import NOT_MEASURED, say_bar, say_share


@dataclass(frozen=True, kw_only=True)
class VerdictRule:
    """All thresholds, in one place.

    Attributes:
        same: accuracies within this of each other are the same.
        least_lead: what the base must be better than chance, and than the control, for a verdict.
        share: of the base's lead that counts as being there.
        left: what a model must be better than the floor for part of the capability to be left in its answers.
        revived: share of the base's accuracy that ends reverse fine-tuning.
        speed: how many times as long the control must take.
        faster: below so many times, coming back is learning anew.
        signs: how many signs make a wrapper, where none is enough alone.
        half: share of the blocks that each side of a cut must have to be called a half.
    """

    same: float = 0.05
    least_lead: float = 0.2
    share: float = 0.5
    left: float = 0.1
    revived: float = 0.95
    speed: float = 3.0
    faster: float = 2.0
    signs: int = 2
    half: float = 1 / 3

    def half_of(self, floor: float, top: float) -> float:
        """The accuracy at which ``share`` of a lead over the floor is there."""
        return floor + self.share * (top - floor)


PRUNING, HALVES, READ, UNTAUGHT, FAST = (
    "comes back by pruning", "one half of it works in the base", "can be read",
    "answers that it was not taught come back", "comes back fast",
)  # fmt: skip
PHRASES = {
    PRUNING: "it comes back when a few rows of weights are set to zero",
    HALVES: "half of its blocks still do their part",
    READ: "the answer can be read in its stream",
    UNTAUGHT: "trained back on some questions it soon answers others, whose answers that did not teach",
    FAST: "it comes back fast when it is trained again",
}


def _clears(measured: Share, controls: Sequence[Share], bar: float) -> bool:
    """Whether an accuracy is at or beyond a bar with its near end, and the far ends of its controls are not."""
    return measured.low >= bar and all(control.high < bar for control in controls)


def bar_of(evidence: Evidence, rule: VerdictRule, base: float | None = None) -> float:
    """The accuracy at which ``share`` of the base's lead over the floor is there.

    Args:
        evidence: of a pair.
        rule: whose ``share`` it is.
        base: accuracy of the base on the rows that are judged, if they are not all.
    """
    return rule.half_of(evidence.floor, evidence.base.value if base is None else base)


def _at_least(bar: float) -> str:
    return f"at least {say_bar(bar)}, its control less"


def _pruning_sign(evidence: Evidence, rule: VerdictRule) -> Sign:
    bar = bar_of(evidence, rule, evidence.few_base)
    named = {"random rows": evidence.pruned_random, "chosen rows of the control": evidence.pruned_null}
    controls = {name: share for name, share in named.items() if share is not None}
    holds = _clears(evidence.pruned, list(controls.values()), bar) if evidence.pruned and controls else None
    shown = "; ".join(f"{name} {say_share(share, bar)}" for name, share in controls.items()) or NOT_MEASURED
    return Sign(PRUNING, holds, say_share(evidence.pruned, bar), shown, _at_least(bar), behaviour=True)


def _halves_sign(evidence: Evidence, rule: VerdictRule) -> Sign:
    bar = bar_of(evidence, rule, evidence.few_base)
    named = {
        "first": (evidence.early_blocks, evidence.early, evidence.early_null),
        "last": (evidence.late_blocks, evidence.late, evidence.late_null),
    }
    held: list[bool] = []
    measured, controls = [], []
    for side, (blocks, share, control) in named.items():
        if share is not None and control is not None:
            name = f"{side} {blocks} of {evidence.num_blocks} blocks" if blocks else f"{side} blocks"
            held.append(_clears(share, [control], bar))
            measured.append(f"{name} {say_share(share, bar)}")
            controls.append(f"{name} {say_share(control, bar)}")
    shown = "; ".join(measured) or NOT_MEASURED, "; ".join(controls) or NOT_MEASURED
    return Sign(HALVES, any(held) if held else None, *shown, _at_least(bar), behaviour=False)


def _read_sign(evidence: Evidence, rule: VerdictRule) -> Sign:
    read, base, null = evidence.read, evidence.read_base, evidence.read_null
    if read is None or base is None or null is None:
        return Sign(READ, None, say_share(read), say_share(null), NOT_MEASURED, behaviour=False)
    least = max(evidence.chance, null.high)
    if base.low <= least:  # there is no room for a sign where as much is read without the capability as in the base
        bar = f"{NOT_MEASURED}: the base reads {say_share(base)}, not more than its control"
        return Sign(READ, None, say_share(read), say_share(null), bar, behaviour=False)
    bar_at = rule.half_of(least, base.value)
    return Sign(
        READ, _clears(read, [null], bar_at), say_share(read, bar_at), say_share(null, bar_at), _at_least(bar_at),
        behaviour=False,
    )  # fmt: skip


def knows_untaught(evidence: Evidence, rule: VerdictRule) -> bool:
    """Whether the base knows enough of the answers that training back does not teach, where these are asked."""
    return evidence.untaught_base is None or evidence.untaught_base - evidence.floor >= rule.least_lead


def _fast_sign(evidence: Evidence, rule: VerdictRule) -> Sign:
    one, other = evidence.revival, evidence.revival_null
    faster = one.is_faster_than(other, rule.speed) if one and other else None
    found, control, bar = evidence.untaught, evidence.untaught_null, f"its control takes at least {rule.speed:g} times"
    if found is None or control is None:
        return Sign(FAST, faster, say_steps(one), say_steps(other), f"{bar} as long", behaviour=True)
    least = bar_of(evidence, rule, evidence.untaught_base)
    if evidence.untaught_base is not None and not knows_untaught(evidence, rule):
        bar = f"{NOT_MEASURED}: the base answers {evidence.untaught_base:.0%} of them, not enough more than the floor"
        return Sign(UNTAUGHT, None, say_share(found), say_share(control), bar, behaviour=True)
    cleared = _clears(found, [control], least)
    return Sign(
        UNTAUGHT, cleared and faster if cleared else False,
        f"{say_share(found, least)}, {rule.share:.0%} of the lead in {say_steps(one)}",
        f"{say_share(control, least)}, {say_steps(other)}",
        f"{_at_least(least)}; {bar} as long", behaviour=True,
    )  # fmt: skip


def read_signs(evidence: Evidence, rule: VerdictRule) -> tuple[Sign, ...]:
    """The four signs, in the order of :mod:`ftmech_hf.studies.diagnosis.verdict`."""
    return tuple(sign(evidence, rule) for sign in (_pruning_sign, _halves_sign, _read_sign, _fast_sign))
