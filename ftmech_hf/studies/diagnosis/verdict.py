"""Is a capability unchanged, hidden, weakened or gone? One rule, with all its thresholds in :class:`.VerdictRule`.

**Behaviour first.** *Chance* is what naming the most frequent answer gives; the *floor* is chance or the accuracy of
the control (a model without the capability), whichever is higher; a *lead* is what a model is better than that. In this
order:

- The base must clearly be better than chance by :attr:`.VerdictRule.least_lead`. If it is not with the whole interval,
  it does not show the capability, whether or not it has it: ``nothing to lose``. If it may be: ``undecided``.
- If the paired difference base less fine-tuned is no more than :attr:`.VerdictRule.same`, with the whole interval:
  ``unchanged``. If it is not more than that with the whole interval: ``undecided``, more rows are needed. So more rows
  never turn one of unchanged and worse into the other but by way of undecided.
- The base must have that lead over the control as well, or the control has the capability itself: ``undecided``.
- If at least :attr:`.VerdictRule.share` of the base's lead is left, with the whole interval: ``weakened``. If that can
  be less as well as more: ``undecided``, more rows are needed.

What is left now is *lost*: less than ``share`` of the lead shows. **Four signs that it is still there**, each beside a
control that must not show it. The first three ask whether at least ``share`` of the lead is there; an accuracy counts
with the near end of its 95 % interval, its control with the far end. A sign shows, does not show, or could not be
measured, which is neither:

1. *comes back by pruning*: with a few rows of weights set to zero; and not with as many random rows, nor in the control
   with rows chosen for it in the same way; the base's lead is that on the questions that are asked here;
2. *one half of it works in the base*: the base's first blocks and the fine-tuned model's last ones answer right
   together, or the fine-tuned model's first blocks and the base's last ones do, and not with the control's blocks in
   their place. Where the halves meet is chosen by the base alone, on other questions: the answer must still have to be
   computed after it (last blocks), or must be there (first blocks). Probes tell, which read more in the base than in
   the controls. Where less than ``share`` of the tested answers are words that probes have seen, an exchange tells: the
   base gets another question's stream at the last position, and gives the answer to that one (it is there) or to its
   own (it is still to be computed). A half has at least :attr:`.VerdictRule.half` of the blocks. Not measurable where
   probes of the base read no more than those of the controls, or no such cut is central;
3. *can be read*: a linear probe reads the answer in the fine-tuned model's stream, with a lead that counts from the
   most that is read without the capability: in the control, in two models of random weights (each in the layer where
   most is read), and in the embeddings of the input. Not measurable where the base's probe is not above all of these
   (then the input gives it away), nor where the answers are words that the probe never saw;
4. *comes back fast*: reverse fine-tuning reaches :attr:`.VerdictRule.revived` of the base's accuracy, and the control
   takes at least :attr:`.VerdictRule.speed` times as many steps: the slowest of several repetitions of the one against
   the fastest of the other. Not measurable where that was not followed for long enough to tell. Where most of the
   tested answers are words of their own, so that no row of that training has them, it is asked instead whether
   *answers that it was not taught come back*. Those alone are asked, and ``share`` of the base's lead on them is to be
   reached: the model must have it with its whole interval, after as many steps the control must not, and must not have
   reached it in ``speed`` times as many steps as the slowest repetition of the fine-tuned model.

**The verdict on what is lost.** Signs 1 and 4 are the model's own behaviour.

- With at least :attr:`.VerdictRule.signs` signs, one of them of its own behaviour: ``behind a wrapper``. Where answers
  come back that were not taught, that sign alone is enough: it asks for as much as reading (``share`` of the lead) and
  for as much speed as coming back fast, of one training, and what that training did not contain it cannot have put
  there. If a rule makes the answers from the questions, it can be learned anew; so it is the control, trained on the
  same rows, that tells these two apart, and without one the verdict leaves both open, as ever.
- Else, if its lead is more than :attr:`.VerdictRule.left`, with the whole interval, part of it shows: ``weakened``. If
  it may be more or less than that: ``undecided``. A lead of nothing is never called part of the capability.
- Else ``gone``, if signs 1 and 4 were measured, no sign shows, and the control takes less than
  :attr:`.VerdictRule.faster` times as many steps to learn it; sign 2 alone does not stand against it. If neither model
  was back, their steps were never compared: then it is ``gone`` if a control (not random weights) had learned some of
  it by the last step and the fine-tuned model was not ahead of it by :attr:`.VerdictRule.left`, with the whole
  interval. Else, or if any other sign shows alone: ``undecided``.

**Without a control** that never had the capability (``--control``), one of random weights stands in. It has learned
nothing at all, so that what beats it may only be what any training leaves behind. Then ``behind a wrapper`` becomes
``hidden or learned anew`` and the ``weakened`` of what is lost ``undecided``; ``gone`` may be said, because what
does not even beat random weights beats no other control. **Where the two models read the questions as different
tokens**, each is asked in its own, no method that needs the same tokens is run, and what is lost is ``undecided``.

The thresholds were set before the rule judged any model, but for ``half``, ``left`` and ``speed``, which is what two
models that never had the capability exceed in one of a hundred pairs (measured in the README; wrappers had no part).
Its form changed on seeing results, each time but the last to where it claims less. Signs 2 and 3 asked whether the
base's own last blocks and probes can use the fine-tuned model's stream, until a change was seen that sits in the first
block, so that what is intact comes *after* it. Halves and reading could not be measured where every answer is a word of
its own, as in facts about a real model; how they are asked there was settled on a hidden pair of a seed that is not
reported. What the base does not show was ``undecided``, until a study asked about what a model never could: that there
is nothing to lose is a finding, and more rows do not change it. Where answers are words of their own, coming back fast
asked for 95 % of the base's accuracy as well, until a model was seen that gave back 59 % of the capitals it was not
taught (its control none, the base 72 %) and no more in 32 steps. What is asked now was settled on organisms of another
seed, beside a model that never knew the facts and must not show them. ``gone`` was given to a model that came back in a
third of the control's steps, to one that let the answer be read far better than random weights do, and where neither
was back. Then it was never given where neither was back, until organisms of development seeds were seen whose operator
no model learns anew in the steps that it is given. ``weakened`` was given to a fall of 1.9 to 5.1 points, to models
that never had the capability (beside random weights), and where one of thirty blocks (a "half") worked in the base.
What can be read counted from controls at the base's layer, not at their own. Half of the lead on answers that were not
taught was half of the base's lead on all questions; it is that of its lead on these, which is less where it knows these
less, and not measured where it has next to none. Pruning and halves are judged by what the base answers of the same
questions, not of all; a control that is trained on beside the model is trained as often as it, not once; and answers
that were not taught are compared after equally many steps, where the control had had more. No pair made these three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ftmech_hf.studies.diagnosis.evidence import Evidence, Sign, say_list, say_steps
from ftmech_hf.studies.diagnosis.shares import say_share
from ftmech_hf.studies.diagnosis.signs import HALVES, PHRASES, UNTAUGHT, VerdictRule, bar_of, knows_untaught, read_signs

Verdict = Literal[
    "unchanged", "behind a wrapper", "hidden or learned anew", "weakened", "gone", "nothing to lose", "undecided"
]  # fmt: skip


@dataclass(frozen=True)
class VerdictResult:
    """What the rule says, and why.

    Attributes:
        verdict: the word.
        reason: one sentence on how the rule came to it.
        signs: the four signs; none where answers alone decide that nothing is lost, or that there was nothing to lose.
    """

    verdict: Verdict
    reason: str
    signs: tuple[Sign, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per sign."""
        return [vars(sign) for sign in self.signs]

    def summary(self) -> dict[str, Any]:
        """All of it."""
        return {"verdict": self.verdict, "reason": self.reason, "signs": self.rows()}


NO_CONTROL = "no trained control was given (--control)"


def judge_behaviour(evidence: Evidence, rule: VerdictRule | None = None) -> VerdictResult | None:
    """The verdict where answers alone decide it, without signs; None where the capability is lost."""
    rule = rule or VerdictRule()
    base, drop, found = evidence.base, evidence.drop, evidence.finetuned
    points = f"{100 * rule.least_lead:.0f} percentage points"
    named = f"{points} more than the {evidence.chance:.0%} that naming one answer gives"
    if base.high - evidence.chance < rule.least_lead:
        return VerdictResult(
            "nothing to lose",
            f"the base answers {say_share(base)} right, which is less than {named}: it does not show it",
        )
    if base.low - evidence.chance < rule.least_lead:
        return VerdictResult(
            "undecided",
            f"the base answers {say_share(base)} right, which may be {named} and may be less: whether there is "
            "anything to lose, these questions do not say; use more rows",
        )
    if drop.high <= rule.same:
        moved = "rose" if drop.value < 0 else "fell" if drop.value > 0 else "stayed"
        by = f" by {100 * abs(drop.value):.1f} percentage points" if drop.value else " the same"
        most = f"a fall of more than {100 * max(drop.high, 0):.1f} points is ruled out"
        return VerdictResult("unchanged", f"its accuracy {moved}{by} on these questions; {most}")
    if drop.low <= rule.same:
        return VerdictResult(
            "undecided",
            f"its accuracy fell by something between {100 * drop.low:.1f} and {100 * drop.high:.1f} percentage points, "
            f"which may be no more than the {100 * rule.same:.0f} that the rule lets pass and may be more; use "
            "more rows",
        )
    if evidence.null and base.low - evidence.floor < rule.least_lead:
        return VerdictResult(
            "undecided",
            f"{evidence.fall}, but the control answers {say_share(evidence.null)} right, so that it is not one "
            "without the capability",
        )
    bar = bar_of(evidence, rule)
    if found.low >= bar:
        so_far = "" if evidence.control else f"; {NO_CONTROL} to say what is right without the capability"
        return VerdictResult(
            "weakened",
            f"{evidence.fall}: less than before, but still at least {rule.share:.0%} of what it was above "
            f"{evidence.floor:.0%}{so_far}",
        )
    if found.high >= bar:
        return VerdictResult(
            "undecided",
            f"{evidence.fall}, and whether less than {rule.share:.0%} of what it was above {evidence.floor:.0%} is "
            "left, these questions do not say; use more rows",
        )
    return None


def judge_capability(evidence: Evidence, rule: VerdictRule | None = None) -> VerdictResult:
    """Apply the rule of this module's docstring."""
    rule = rule or VerdictRule()
    signs, by_behaviour = read_signs(evidence, rule), judge_behaviour(evidence, rule)
    if by_behaviour is not None:
        measured = by_behaviour.verdict == "weakened" and any(sign.holds is not None for sign in signs)
        return VerdictResult(by_behaviour.verdict, by_behaviour.reason, signs if measured else ())
    if not evidence.same_tokens:
        return VerdictResult(
            "undecided",
            f"{evidence.fall}; the two models read the questions as different tokens, so that each was asked in its "
            "own, and whether it is hidden or gone cannot be measured",
        )
    verdict, more = _judge_lost(evidence, rule, signs)
    return VerdictResult(verdict, f"{evidence.fall}{more}", signs)


def _judge_lost(evidence: Evidence, rule: VerdictRule, signs: tuple[Sign, ...]) -> tuple[Verdict, str]:
    """(verdict, the rest of its reason) of a capability of which less than ``share`` shows in the answers."""
    found, left = evidence.finetuned, evidence.floor + rule.left
    showing = [sign for sign in signs if sign.holds]
    named = say_list([PHRASES[sign.name] for sign in showing])
    several = len(showing) >= rule.signs and any(sign.behaviour for sign in showing)
    if several or any(sign.name == UNTAUGHT for sign in showing):
        if evidence.control:
            return "behind a wrapper", f", but {named}"
        return "hidden or learned anew", f", but {named}; {NO_CONTROL}, and beside random weights any training does so"
    if found.low > left:
        if evidence.control:
            return "weakened", f", which is still more than the {evidence.floor:.0%} that are right without it"
        return "undecided", f"; part of it may be left, but {NO_CONTROL} to say what is right without the capability"
    if found.high > left:
        unclear = f"; whether any of it is left above {evidence.floor:.0%}, these questions do not say; use more rows"
        return "undecided", unclear
    if any(sign.name != HALVES for sign in showing):
        beside = "" if evidence.control else f"; {NO_CONTROL}"
        return "undecided", f", and of the signs that it is still there only some show: {named}{beside}"
    return _judge_gone(evidence, rule, signs)


def _judge_gone(evidence: Evidence, rule: VerdictRule, signs: tuple[Sign, ...]) -> tuple[Verdict, str]:
    """The same where no sign shows that counts."""
    revival, null = evidence.revival, evidence.revival_null
    if revival is None or null is None or signs[0].holds is None or not knows_untaught(evidence, rule):
        return "undecided", "; not all that would show that it is still there was measured"
    faster = revival.is_faster_than(null, rule.faster)
    ahead, gained = evidence.ahead, evidence.gained
    if faster is None and evidence.control and ahead and gained and gained.low > 0 and ahead.high < rule.left:
        return "gone", (
            f"; trained back, neither it nor a model that never had it was there in {null.fastest} steps, and it is "
            f"no more than {100 * max(ahead.high, 0):.0f} points ahead"
        )
    if faster is None:
        return "undecided", (
            f"; it takes {say_steps(revival)} to come back and its control {say_steps(null)}, which is not enough to "
            "tell whether it is faster; give them more (--most_reverse_steps)"
        )
    if faster:
        beside = "a model that never had it needs" if evidence.control else f"random weights need; {NO_CONTROL}"
        return "undecided", f", and it comes back in fewer steps than {beside}"
    beside = "a model that never had it" if evidence.control else f"random weights, though {NO_CONTROL}"
    return "gone", f", and nothing found more of it than there is in {beside}"
