"""Every sentence of the rule, at its bars: the right words are written by hand here, never taken from the code."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftmech_hf.statistics.intervals import Share, paired_difference, share_interval
from ftmech_hf.studies.diagnosis.evidence import Evidence, Revivals, Sign
from ftmech_hf.studies.diagnosis.signs import VerdictRule, read_signs
from ftmech_hf.studies.diagnosis.verdict import VerdictResult, judge_behaviour, judge_capability


def share(percent: float, rows: int = 500) -> Share:
    return share_interval(round(percent / 100 * rows), rows)


def drop(before: int, after: int, rows: int = 500) -> Share:
    return paired_difference([n < before for n in range(rows)], [n < after for n in range(rows)])


NEVER = Share(0.1, 0.08, 0.12)
LOST = Evidence(
    chance=0.25, base=Share(1.0, 0.99, 1.0), finetuned=Share(0.1, 0.08, 0.12), drop=Share(0.9, 0.87, 0.93),
    null=NEVER, control=True,
    pruned=NEVER, pruned_random=NEVER, pruned_null=NEVER,
    late=NEVER, late_null=NEVER, late_blocks=3, early=NEVER, early_null=NEVER, early_blocks=2, num_blocks=6,
    read=NEVER, read_base=Share(1.0, 0.99, 1.0), read_null=NEVER,
    revival=Revivals((None, None), 32), revival_null=Revivals((30,), 32),
)  # fmt: skip
"""Nothing shows; the floor is 25 %, the base's lead 75 points, the bar 62.5 %: all exact in binary."""

AT_BAR, BELOW = Share(0.7, 0.625, 0.8), Share(0.7, 0.624, 0.8)
PRUNED = {"pruned": AT_BAR}
LATE = {"late": AT_BAR}
EARLY = {"early": AT_BAR}
READ = {"read": AT_BAR}  # the bar of reading: 25 % and half of the way to 100 %
FAST = {"revival": Revivals((4, 5, 6), 32), "revival_null": Revivals((None, None, None), 18)}
SIGNS = {"pruning": PRUNED, "late half": LATE, "early half": EARLY, "reading": READ, "speed": FAST}
NUMBER = {"pruning": 0, "late half": 1, "early half": 1, "reading": 2, "speed": 3}
ALONE = {"control": False}


def judge(**changes: Any) -> VerdictResult:
    return judge_capability(dataclasses.replace(LOST, **changes))


def sign(number: int, **changes: Any) -> Sign:
    return read_signs(dataclasses.replace(LOST, **changes), VerdictRule())[number]


BEHAVIOUR: dict[str, tuple[dict[str, Any], str, str]] = {
    "a base that barely leads": (
        {"base": Share(0.5, 0.449, 0.6)}, "undecided",
        "the base answers 50% (45% to 60%) right, which may be 20 percentage points more than the 25% that naming one "
        "answer gives and "
        "may be less: whether there is anything to lose, these questions do not say; use more rows",
    ),
    "even where both are the same": (
        {"base": Share(0.5, 0.449, 0.6), "drop": Share(0, -0.01, 0.01)}, "undecided",
        "the base answers 50% (45% to 60%) right, which may be 20 percentage points more than the 25% that naming one "
        "answer gives and "
        "may be less: whether there is anything to lose, these questions do not say; use more rows",
    ),
    "a base that may just lead": (
        {"base": Share(0.3, 0.2, 0.45)}, "undecided",
        "the base answers 30% (20% to 45%) right, which may be 20 percentage points more than the 25% that naming one "
        "answer gives and "
        "may be less: whether there is anything to lose, these questions do not say; use more rows",
    ),
    "a base that does not lead": (
        {"base": Share(0.3, 0.2, 0.449)}, "nothing to lose",
        "the base answers 30% (20% to 45%) right, which is less than 20 percentage points more than the 25% "
        "that naming one answer gives: it does not show it",
    ),
    "a base that just leads": (
        {"base": Share(0.5, 0.45, 0.6), "drop": Share(0, -0.01, 0.01)}, "unchanged",
        "its accuracy stayed the same on these questions; a fall of more than 1.0 points is ruled out",
    ),
    "a fall of five points at most": (
        {"drop": Share(0.03, 0.02, 0.05)}, "unchanged",
        "its accuracy fell by 3.0 percentage points on these questions; a fall of more than 5.0 points is ruled out",
    ),
    "a rise": (
        {"drop": Share(-0.1, -0.12, -0.08)}, "unchanged",
        "its accuracy rose by 10.0 percentage points on these questions; a fall of more than 0.0 points is ruled out",
    ),
    "a fall of 1.9 to 5.1 points": (
        {"drop": Share(0.035, 0.019, 0.051)}, "undecided",
        "its accuracy fell by something between 1.9 and 5.1 percentage points, which may be no more than the 5 that "
        "the rule lets pass and may be more; use more rows",
    ),
    "a fall of five points at least is not more than five": (
        {"drop": Share(0.9, 0.05, 0.93)}, "undecided",
        "its accuracy fell by something between 5.0 and 93.0 percentage points, which may be no more than the 5 that "
        "the rule lets pass and may be more; use more rows",
    ),
    "anything or nothing": (
        {"drop": Share(0.03, -0.02, 0.08)}, "undecided",
        "its accuracy fell by something between -2.0 and 8.0 percentage points, which may be no more than the 5 that "
        "the rule lets pass and may be more; use more rows",
    ),
    "a control that has it": (
        {"null": Share(0.9, 0.8, 1.0)}, "undecided",
        "its accuracy fell from 100% to 10%, but the control answers 90% (80% to 100%) right, so that it is not one "
        "without the capability",
    ),
    "a control that just has not": (
        {"null": Share(0.78, 0.7, 0.9)}, "gone",
        "its accuracy fell from 100% to 10%, and nothing found more of it than there is in a model that never had it",
    ),
    "a control that has it does not matter to what is unchanged": (
        {"null": Share(0.9, 0.8, 1.0), "drop": Share(0.0, -0.01, 0.01)}, "unchanged",
        "its accuracy stayed the same on these questions; a fall of more than 1.0 points is ruled out",
    ),
    "half of the lead at least": (
        {"finetuned": AT_BAR}, "weakened",
        "its accuracy fell from 100% to 70%: less than before, but still at least 50% of what it was above 25%",
    ),
    "half of the lead at least, without a control": (
        {"finetuned": AT_BAR, **ALONE}, "weakened",
        "its accuracy fell from 100% to 70%: less than before, but still at least 50% of what it was above 25%; no "
        "trained control was given (--control) to say what is right without the capability",
    ),
    "perhaps half of the lead": (
        {"finetuned": BELOW}, "undecided",
        "its accuracy fell from 100% to 70%, and whether less than 50% of what it was above 25% is left, these "
        "questions do not say; use more rows",
    ),
    "at most half of the lead": (
        {"finetuned": Share(0.5, 0.4, 0.625)}, "undecided",
        "its accuracy fell from 100% to 50%, and whether less than 50% of what it was above 25% is left, these "
        "questions do not say; use more rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEHAVIOUR)
def test_what_answers_decide(name: str) -> None:
    changes, verdict, reason = BEHAVIOUR[name]
    result = judge(**changes)
    assert (result.verdict, result.reason) == (verdict, reason)
    by_behaviour = judge_behaviour(dataclasses.replace(LOST, **changes))
    if verdict == "gone":
        assert by_behaviour is None
    else:
        assert by_behaviour == VerdictResult(result.verdict, reason)
        # what is not lost has no signs that it is still there, and none that are missing
        assert len(result.signs) == (4 if verdict == "weakened" else 0)


def test_more_than_half_without_instruments_has_no_signs() -> None:
    bare = Evidence(chance=0.25, base=Share(1.0, 0.99, 1.0), finetuned=AT_BAR, drop=Share(0.3, 0.2, 0.4))
    assert (judge_capability(bare).verdict, judge_capability(bare).signs) == ("weakened", ())


COST = {"finetuned": Share(0.45, 0.351, 0.5)}
UNCLEAR = {"finetuned": Share(0.3, 0.25, 0.351)}
FELL = "its accuracy fell from 100% to 10%"
HIDING = {
    "pruning": "it comes back when a few rows of weights are set to zero",
    "late half": "half of its blocks still do their part",
    "early half": "half of its blocks still do their part",
    "reading": "the answer can be read in its stream",
    "speed": "it comes back fast when it is trained again",
}
NO_FURTHER = {"ahead": Share(0.02, -0.05, 0.09), "gained": Share(0.1, 0.01, 0.2)}
UNTOLD = (
    f"{FELL}; it takes more than 32 steps to come back and its control more than 32 steps, which is not enough to tell "
    "whether it is faster; give them more (--most_reverse_steps)"
)
LOSSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing shows": (
        {}, "gone", f"{FELL}, and nothing found more of it than there is in a model that never had it",
    ),
    "nothing shows, and at the bar of what may be left": (
        {"finetuned": Share(0.25, 0.1, 0.35)}, "gone",
        "its accuracy fell from 100% to 25%, and nothing found more of it than there is in a model that never had it",
    ),
    "nothing shows even beside random weights": (
        ALONE, "gone",
        f"{FELL}, and nothing found more of it than there is in random weights, though no trained control was "
        "given (--control)",
    ),
    "part of it shows": (
        COST, "weakened",
        "its accuracy fell from 100% to 45%, which is still more than the 25% that are right without it",
    ),
    "part of it shows, and one sign": (
        {**COST, **READ}, "weakened",
        "its accuracy fell from 100% to 45%, which is still more than the 25% that are right without it",
    ),
    "part of it shows, but without a control": (
        {**COST, **ALONE}, "undecided",
        "its accuracy fell from 100% to 45%; part of it may be left, but no trained control was given (--control) to "
        "say what is right without the capability",
    ),
    "part of it shows, but no more than in the control": (
        {**COST, "null": Share(0.44, 0.4, 0.5)}, "gone",
        "its accuracy fell from 100% to 45%, and nothing found more of it than there is in a model that never had it",
    ),
    "part of it may show": (
        UNCLEAR, "undecided",
        "its accuracy fell from 100% to 30%; whether any of it is left above 25%, these questions do not say; use more "
        "rows",
    ),
    "at the bar of what is left": (
        {"finetuned": Share(0.45, 0.35, 0.5)}, "undecided",
        "its accuracy fell from 100% to 45%; whether any of it is left above 25%, these questions do not say; use more "
        "rows",
    ),
    "hidden, and part of it shows": (
        {**COST, **READ, **FAST}, "behind a wrapper",
        f"its accuracy fell from 100% to 45%, but {HIDING['reading']} and {HIDING['speed']}",
    ),
    "all signs": (
        {**PRUNED, **LATE, **READ, **FAST}, "behind a wrapper",
        f"{FELL}, but {HIDING['pruning']}, {HIDING['late half']}, {HIDING['reading']} and {HIDING['speed']}",
    ),
    "all signs, beside random weights": (
        {**PRUNED, **EARLY, **READ, **FAST, **ALONE}, "hidden or learned anew",
        f"{FELL}, but {HIDING['pruning']}, {HIDING['early half']}, {HIDING['reading']} and {HIDING['speed']}; no "
        "trained control was given (--control), and beside random weights any training does so",
    ),
    "two signs without behaviour": (
        {**LATE, **READ}, "undecided",
        f"{FELL}, and of the signs that it is still there only some show: {HIDING['late half']} and "
        f"{HIDING['reading']}",
    ),
    "both halves are one sign": (
        {**LATE, **EARLY}, "gone",
        f"{FELL}, and nothing found more of it than there is in a model that never had it",
    ),
    "one sign, without a control": (
        {**FAST, **ALONE}, "undecided",
        f"{FELL}, and of the signs that it is still there only some show: {HIDING['speed']}; no trained control was "
        "given (--control)",
    ),
    "other tokens": (
        {"same_tokens": False, **PRUNED, **FAST}, "undecided",
        f"{FELL}; the two models read the questions as different tokens, so that each was asked in its own, and "
        "whether it is hidden or gone cannot be measured",
    ),
    "neither came back, so that nothing was compared": (
        {"revival_null": Revivals((None,), 32)}, "undecided", UNTOLD,
    ),
    "neither came back, and it is no further than the control, which learned some of it": (
        {"revival_null": Revivals((None,), 512), **NO_FURTHER}, "gone",
        f"{FELL}; trained back, neither it nor a model that never had it was there in 512 steps, and it is no more "
        "than 9 points ahead",
    ),
    "neither came back, and it may be further": (
        {"revival_null": Revivals((None,), 32), **NO_FURTHER, "ahead": Share(0.03, -0.03, 0.1)}, "undecided", UNTOLD,
    ),
    "neither came back, and the control may have learned nothing": (
        {"revival_null": Revivals((None,), 32), **NO_FURTHER, "gained": Share(0.1, 0.0, 0.2)}, "undecided", UNTOLD,
    ),
    "neither came back, nor could random weights": (
        {"revival_null": Revivals((None,), 32), **NO_FURTHER, **ALONE}, "undecided", UNTOLD,
    ),
    "it is no further than the control, and can be read": (
        {"revival_null": Revivals((None,), 32), **NO_FURTHER, **READ}, "undecided",
        f"{FELL}, and of the signs that it is still there only some show: {HIDING['reading']}",
    ),
    "the control came back in less than twice as many": (
        {"revival_null": Revivals((63,), 64)}, "gone",
        f"{FELL}, and nothing found more of it than there is in a model that never had it",
    ),
    "the control came back in twice as many, and it may have": (
        {"revival_null": Revivals((64,), 64)}, "undecided",
        f"{FELL}; it takes more than 32 steps to come back and its control 64 steps, which is not enough to tell "
        "whether it is faster; give them more (--most_reverse_steps)",
    ),
    "it came back, the control in less than twice as many": (
        {"revival": Revivals((4, 6), 32), "revival_null": Revivals((11, 20), 30)}, "gone",
        f"{FELL}, and nothing found more of it than there is in a model that never had it",
    ),
    "it came back, the control in twice as many": (
        {"revival": Revivals((4, 6), 32), "revival_null": Revivals((12, 20), 30)}, "undecided",
        f"{FELL}, and it comes back in fewer steps than a model that never had it needs",
    ),
    "it came back, random weights in twice as many": (
        {"revival": Revivals((4, 6), 32), "revival_null": Revivals((12, 20), 30), **ALONE}, "undecided",
        f"{FELL}, and it comes back in fewer steps than random weights need; no trained control was given (--control)",
    ),
    "naming one answer will do for both": (
        {"revival": Revivals((0, 0), 32), "revival_null": Revivals((1, 1), 5)}, "gone",
        f"{FELL}, and nothing found more of it than there is in a model that never had it",
    ),
    "nothing was pruned": (
        {"pruned": None}, "undecided", f"{FELL}; not all that would show that it is still there was measured",
    ),
    "nothing was pruned to compare with": (
        {"pruned_random": None, "pruned_null": None}, "undecided",
        f"{FELL}; not all that would show that it is still there was measured",
    ),
    "nothing was trained back": (
        {"revival": None}, "undecided", f"{FELL}; not all that would show that it is still there was measured",
    ),
    "no control was trained": (
        {"revival_null": None}, "undecided", f"{FELL}; not all that would show that it is still there was measured",
    ),
    "what cannot be read or cut does not stand against it": (
        {"read_base": NEVER, "late": None, "early": None}, "gone",
        f"{FELL}, and nothing found more of it than there is in a model that never had it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_lost(name: str) -> None:
    changes, verdict, reason = LOSSES[name]
    result = judge(**changes)
    assert (result.verdict, result.reason) == (verdict, reason)
    assert judge_behaviour(dataclasses.replace(LOST, **changes)) is None
    assert len(result.signs) == (0 if name == "other tokens" else 4)


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_alone_decides_nothing_and_halves_not_even_that(name: str) -> None:
    result = judge(**SIGNS[name])
    assert [each.holds for each in result.signs] == [number == NUMBER[name] for number in range(4)]
    if "half" in name:
        assert result.verdict == "gone"
    else:
        expected = f"{FELL}, and of the signs that it is still there only some show: {HIDING[name]}"
        assert (result.verdict, result.reason) == ("undecided", expected)


@pytest.mark.parametrize("behaviour", ["pruning", "speed"])
@pytest.mark.parametrize("other", ["late half", "early half", "reading"])
def test_two_signs_make_a_wrapper_if_one_is_behaviour(behaviour: str, other: str) -> None:
    result = judge(**SIGNS[behaviour], **SIGNS[other])
    assert result.verdict == "behind a wrapper"
    assert [each.behaviour for each in result.signs] == [True, False, False, True]
    alone = judge(**SIGNS[behaviour], **SIGNS[other], **ALONE)
    assert alone.verdict == "hidden or learned anew"


def test_two_signs_of_behaviour_make_a_wrapper() -> None:
    assert judge(**PRUNED, **FAST).verdict == "behind a wrapper"


CONTROLS: dict[str, list[dict[str, Any]]] = {
    "pruning": [{"pruned_random": Share(0.5, 0.4, 0.625)}, {"pruned_null": Share(0.5, 0.4, 0.625)}],
    "late half": [{"late_null": Share(0.5, 0.4, 0.625)}],
    "early half": [{"early_null": Share(0.5, 0.4, 0.625)}],
    "reading": [{"read_null": Share(0.5, 0.4, 0.625)}],
    "speed": [{"revival_null": Revivals((None, None, 17), 18)}],
}
NEAR: dict[str, dict[str, Any]] = {
    "pruning": {"pruned_random": Share(0.5, 0.4, 0.624), "pruned_null": Share(0.5, 0.4, 0.624)},
    "late half": {"late_null": Share(0.5, 0.4, 0.624)},
    "early half": {"early_null": Share(0.5, 0.4, 0.624)},
    "reading": {"read_null": Share(0.1, 0.08, 0.25)},
    "speed": {"revival_null": Revivals((18, None, None), 18)},
}
SHORT: dict[str, dict[str, Any]] = {
    "pruning": {"pruned": BELOW}, "late half": {"late": BELOW}, "early half": {"early": BELOW},
    "reading": {"read": BELOW}, "speed": {"revival": Revivals((4, 5, 7), 32), "revival_null": Revivals((20, 35), 35)},
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_needs_its_bar_and_its_control_below_it(name: str) -> None:
    number = NUMBER[name]
    assert sign(number, **SIGNS[name]).holds is True
    assert sign(number, **{**SIGNS[name], **NEAR[name]}).holds is True
    assert sign(number, **{**SIGNS[name], **SHORT[name]}).holds is False
    for control in CONTROLS[name]:
        assert sign(number, **{**SIGNS[name], **control}).holds is False


def test_what_a_control_shows_raises_the_bar() -> None:
    """Half of the lead over a control that is right on 40 %: 70 %, which 60 % at least do not reach."""
    never = {"null": Share(0.4, 0.35, 0.45)}
    for name in ("pruning", "late half", "early half"):
        assert sign(NUMBER[name], **{**SIGNS[name], **never}).holds is False
    assert "at least 70%" in sign(0, **never).bar
    assert judge(**never, finetuned=Share(0.35, 0.3, 0.4)).verdict == "gone"
    # reading has controls of its own: half of the way from what they read to what the base's probe reads
    read = {"read_null": Share(0.4, 0.35, 0.5), "read_base": Share(0.9, 0.86, 0.94)}
    assert sign(2, read=Share(0.8, 0.7, 0.9), **read).holds is True
    assert sign(2, read=Share(0.8, 0.699, 0.9), **read).holds is False
    assert sign(2, **read).bar == "at least 70%, its control less"


def test_what_could_not_be_measured_is_neither_yes_nor_no() -> None:
    nothing = Evidence(chance=0.25, base=LOST.base, finetuned=LOST.finetuned, drop=LOST.drop)
    result = judge_capability(nothing)
    assert [each.holds for each in result.signs] == [None] * 4
    assert {each.measured for each in result.signs} == {"not measurable"} == {each.control for each in result.signs}
    assert sign(0, pruned=AT_BAR, pruned_random=None, pruned_null=None).holds is None
    assert sign(0, pruned=AT_BAR, pruned_null=None).holds is True
    for gap in ({"late": None}, {"late_null": None}):
        assert sign(1, **EARLY, **gap).holds is True
        assert sign(1, **gap).holds is False
        assert sign(1, **gap, early=None).holds is None
        assert sign(1, **gap, early_null=None).holds is None
    for gap in ({"read": None}, {"read_base": None}, {"read_null": None}):
        assert sign(2, **{**READ, **gap}).holds is None
    for gap in ({"revival": None}, {"revival_null": None}):
        assert sign(3, **{**FAST, **gap}).holds is None


def test_probes_whose_base_reads_no_more_than_the_controls_measure_nothing() -> None:
    for least in ({"read_base": Share(0.27, 0.25, 0.3)}, {"read_null": Share(0.95, 0.9, 0.99)}):
        found = sign(2, **{**READ, **least})
        assert found.holds is None
        assert found.bar.startswith("not measurable: the base reads ")
    assert sign(2, **READ, read_base=Share(0.3, 0.251, 0.35)).holds is True


def test_what_reading_cannot_measure_in_words() -> None:
    """All of the sign, also where its probes are not there or say nothing."""
    low, no = "10% (8% to 12%)", "not measurable"
    measured = Sign("can be read", None, low, low, f"{no}: the base reads {low}, not more than its control", False)
    assert sign(2, read_base=NEVER) == measured
    assert sign(2, read_base=None) == Sign("can be read", None, low, low, no, behaviour=False)
    assert sign(2, read=None) == Sign("can be read", None, no, low, no, behaviour=False)
    assert sign(2, read_null=None) == Sign("can be read", None, low, no, no, behaviour=False)


def test_signs_in_words() -> None:
    result = judge(**FAST, early_blocks=None)
    assert result.rows() == [
        {"name": "comes back by pruning", "holds": False, "measured": "10% (8% to 12%)",
         "control": "random rows 10% (8% to 12%); chosen rows of the control 10% (8% to 12%)",
         "bar": "at least 62.5%, its control less", "behaviour": True},
        {"name": "one half of it works in the base", "holds": False,
         "measured": "first blocks 10% (8% to 12%); last 3 of 6 blocks 10% (8% to 12%)",
         "control": "first blocks 10% (8% to 12%); last 3 of 6 blocks 10% (8% to 12%)",
         "bar": "at least 62.5%, its control less", "behaviour": False},
        {"name": "can be read", "holds": False, "measured": "10% (8% to 12%)", "control": "10% (8% to 12%)",
         "bar": "at least 62.5%, its control less", "behaviour": False},
        {"name": "comes back fast", "holds": True, "measured": "4, 5, 6 steps", "control": "more than 18 steps",
         "bar": "its control takes at least 3 times as long", "behaviour": True},
    ]  # fmt: skip
    assert result.summary() == {"verdict": "undecided", "reason": result.reason, "signs": result.rows()}
    assert "first 2 of 6 blocks" in judge().signs[1].measured
    assert judge(revival=Revivals((3, None), (9, 7))).signs[3].measured == "3, more than 7 steps"
    assert judge(revival=Revivals((3, 4, 3), 32)).signs[3].measured == "3, 4, 3 steps"
    assert judge(revival=Revivals((3, 3, 3), 32)).signs[3].measured == "3 steps"


@pytest.mark.parametrize(
    ("one", "other", "times", "expected"),
    [
        (Revivals((4, 6), 32), Revivals((30, 40), 50), 5, True),  # the slowest, the fastest
        (Revivals((4, 6), 32), Revivals((29, 40), 50), 5, False),
        (Revivals((4, 6), 32), Revivals((None, None), 30), 5, True),
        (Revivals((4, 6), 32), Revivals((None, None), 29), 5, None),  # it may have come back at 30
        (Revivals((4, None), 32), Revivals((160,), 200), 5, None),  # it may have come back at 32
        (Revivals((4, None), 32), Revivals((159,), 200), 5, False),
        (Revivals((4, None), 32), Revivals((None,), 200), 5, None),
        (Revivals((0, 0), 32), Revivals((5,), 5), 5, True),
        (Revivals((0, 0), 32), Revivals((4,), 5), 5, False),
        (Revivals((0, 0), 32), Revivals((None,), 6), 5, True),  # no step counts as one
        (Revivals((40, None), (64, 32)), Revivals((70,), 128), 2, False),  # each was given steps of its own
        (Revivals((40, None), (64, 32)), Revivals((80,), 128), 2, None),
        (Revivals((None, None), (64, 32)), Revivals((127,), 128), 2, False),
        (Revivals((5,), 32), Revivals((None, None), (24, 25)), 5, None),
        (Revivals((5,), 32), Revivals((None, None), (26, 25)), 5, True),
    ],
)  # fmt: skip
def test_whether_one_comes_back_faster(one: Revivals, other: Revivals, times: float, expected: bool | None) -> None:
    assert one.is_faster_than(other, times) is expected


def test_steps_of_several_repetitions() -> None:
    assert (Revivals((3, 5), 32).slowest, Revivals((3, 5), 32).fastest) == (5, 3)
    assert (Revivals((3, None), 32).slowest, Revivals((None, None), 32).fastest) == (None, 32)
    assert Revivals((3, None), 32).bounds == [(3, 3), (32, math.inf)]
    assert Revivals((None, 9), (8, 16)).fastest == 8


def test_the_thresholds() -> None:
    """A threshold that changes is told in the rule's docstring."""
    assert vars(VerdictRule()) == {
        "same": 0.05, "least_lead": 0.2, "share": 0.5, "left": 0.1, "revived": 0.95, "speed": 3.0, "faster": 2.0,
        "signs": 2, "half": 1 / 3,
    }  # fmt: skip
    assert judge_capability(dataclasses.replace(LOST, **READ), VerdictRule(signs=1)).verdict == "undecided"
    just = dataclasses.replace(LOST, base=Share(0.8, 0.75, 0.85), null=Share(0.5, 0.4, 0.6))
    assert judge_capability(just, VerdictRule(least_lead=0.25)).verdict == "gone"
    assert judge_capability(just, VerdictRule(least_lead=0.26)).reason.endswith("not one without the capability")
    assert judge_capability(dataclasses.replace(LOST, **FAST), VerdictRule(signs=1)).verdict == "behind a wrapper"


WORDS = {"unchanged", "weakened"}


@given(fall=st.integers(0, 50), rose=st.integers(0, 20), right=st.integers(60, 100))
def test_more_rows_never_turn_unchanged_and_worse_into_each_other(fall: int, rose: int, right: int) -> None:
    """The same shares of a hundred rows, measured on more and more rows."""
    fall, rose = min(fall, right), min(rose, 100 - right)
    found = []
    for factor in (1, 8, 50):
        before = np.repeat(np.arange(100) < right, factor)
        after = np.repeat((np.arange(100) < right - fall) | (np.arange(100) >= 100 - rose), factor)
        evidence = Evidence(
            chance=0.1, base=share_interval(int(before.sum()), len(before)),
            finetuned=share_interval(int(after.sum()), len(after)), drop=paired_difference(before, after),
        )  # fmt: skip
        found.append(judge_capability(evidence).verdict)
    decided = [verdict for verdict in found if verdict in WORDS]
    assert len(set(decided)) <= 1
    true = fall - rose
    assert "unchanged" not in found or true <= 5
    assert "weakened" not in found or true > 5
    # and what was decided on few rows is not undecided on more
    assert len({*found[found.index(decided[0]):]} if decided else {0}) == 1  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "percent", "verdict"),
    [(512, 3.5, "undecided"), (2000, 4.5, "undecided"), (10_000, 4.5, "unchanged"), (10_000, 5.5, "weakened"),
     (512, 2.0, "unchanged"), (512, 10.0, "weakened"), (60, 2.0, "undecided")],
)  # fmt: skip
def test_small_falls(rows: int, percent: float, verdict: str) -> None:
    after = rows - round(percent / 100 * rows)
    evidence = {"base": share(100, rows), "finetuned": share_interval(after, rows), "drop": drop(rows, after, rows)}
    assert judge(**evidence).verdict == verdict


def test_gone_is_not_said_where_the_base_knows_too_little_of_what_is_not_taught() -> None:
    """Of answers that are words of their own only those that were not taught are asked, and here nobody knows them."""
    asked = {"untaught": NEVER, "untaught_null": NEVER, "untaught_base": 0.44,
             "revival": Revivals((20,), 32), "revival_null": Revivals((25,), 32)}  # fmt: skip
    little, enough = judge(**asked), judge(**{**asked, "untaught_base": 0.45})
    assert little.signs[-1].holds is None
    assert little.verdict == "undecided"
    assert little.reason.endswith("not all that would show that it is still there was measured")
    assert enough.verdict == "gone"


def test_pruning_and_halves_are_judged_by_what_the_base_knows_of_the_rows_they_are_judged_on() -> None:
    """Of those it answers 90 % right: the bar is half of the way there from 25 %."""
    at, below = Share(0.7, 0.575, 0.8), Share(0.7, 0.574, 0.8)
    for number, name in ((0, "pruned"), (1, "late"), (1, "early")):
        assert sign(number, **{name: at}, few_base=0.9).holds is True
        assert sign(number, **{name: below}, few_base=0.9).holds is False
        assert sign(number, **{name: at}).holds is False
        assert sign(number, few_base=0.9).bar.startswith("at least 57.5%")
    assert judge(pruned=at, few_base=0.9, **READ).verdict == "behind a wrapper"
    assert judge(finetuned=Share(0.6, 0.6, 0.65), few_base=0.5).verdict == "undecided"  # answers are of all rows


def test_the_floor_is_the_higher_of_chance_and_control() -> None:
    assert dataclasses.replace(LOST, null=Share(0.3, 0.2, 0.4)).floor == 0.3
    assert LOST.floor == 0.25
    assert dataclasses.replace(LOST, null=None).floor == 0.25


@pytest.mark.parametrize("control", [True, False])
def test_a_lead_of_nothing_is_never_called_part_of_it(control: bool) -> None:
    """Whatever shows beside: a model that is as good as naming one answer is not weakened."""
    chance = {"finetuned": Share(0.25, 0.22, 0.28), "control": control}
    for first in SIGNS.values():
        for second in SIGNS.values():
            assert judge(**{**chance, **first, **second}).verdict != "weakened"
    assert judge(**chance).verdict == "gone"


def test_no_control_is_taken_for_one_unless_it_is_said() -> None:
    bare = Evidence(chance=0.25, base=LOST.base, finetuned=LOST.finetuned, drop=LOST.drop)
    assert not bare.control
    # what the control answers is no bar for what is read: its own probe is
    assert sign(2, **READ, null=Share(0.4, 0.35, 0.45)).bar == "at least 62.5%, its control less"


UNTAUGHT = {"read": None, "untaught": AT_BAR, "untaught_null": NEVER}


def test_answers_that_were_not_taught_are_asked_for_where_they_are_words_of_their_own() -> None:
    """Half of the base's lead, at the end and with the whole interval, in a third of the control's steps."""
    found = sign(3, **UNTAUGHT, **FAST)
    assert (found.name, found.holds, found.behaviour) == ("answers that it was not taught come back", True, True)
    assert found.measured == "70% (62.5% to 80%), 50% of the lead in 4, 5, 6 steps"
    assert found.control == "10% (8% to 12%), more than 18 steps"
    assert found.bar == "at least 62.5%, its control less; its control takes at least 3 times as long"
    # of level and speed neither is enough
    assert sign(3, **UNTAUGHT, revival=Revivals((4, 5, 6), 32), revival_null=Revivals((17, 20), 30)).holds is False
    assert sign(3, **UNTAUGHT, revival=Revivals((4, 5, 6), 32), revival_null=Revivals((None,), 17)).holds is None
    assert sign(3, **{**UNTAUGHT, "untaught": BELOW}, **FAST).holds is False
    assert sign(3, **{**UNTAUGHT, "untaught_null": AT_BAR}, **FAST).holds is False
    # the lead is that of the base on these questions, of which it may know fewer than of all
    fewer = {**UNTAUGHT, "untaught": Share(0.5, 0.45, 0.55)}
    assert sign(3, **fewer, **FAST).holds is False
    assert sign(3, **fewer, untaught_base=0.65, **FAST).holds is True
    assert sign(3, **fewer, untaught_base=0.65, **FAST).bar.startswith("at least 45%")
    assert sign(3, **fewer, untaught_base=0.66, **FAST).holds is False
    # where the base knows next to nothing of them, half of that is noise, and no sign
    noise = {**UNTAUGHT, "untaught": Share(0.31, 0.29, 0.34), "untaught_null": Share(0.05, 0.03, 0.09)}
    assert sign(3, **noise, untaught_base=0.3, **FAST).holds is None
    assert sign(3, **noise, untaught_base=0.2, **FAST).holds is None  # below the floor, too
    assert sign(3, **noise, untaught_base=0.3, **FAST).bar.startswith("not measurable: the base answers 30% of them")
    assert judge(**noise, untaught_base=0.3, **FAST).verdict == "undecided"
    # nothing can be read there; where it can, that is a sign of its own
    assert sign(2, **UNTAUGHT, **FAST).name == "can be read"
    assert sign(2, **UNTAUGHT, **FAST).holds is None
    assert sign(3, **{**UNTAUGHT, "untaught_null": None}, **FAST).name == "comes back fast"


def test_answers_that_were_not_taught_are_enough_and_nothing_less_is() -> None:
    assert judge(**UNTAUGHT, **FAST).verdict == "behind a wrapper"
    assert judge(**UNTAUGHT, **FAST, **ALONE).verdict == "hidden or learned anew"
    assert judge(**FAST).verdict == "undecided"
    assert judge(**{**UNTAUGHT, "untaught": BELOW}, **FAST).verdict == "undecided"
    assert judge(**{**UNTAUGHT, "untaught_null": AT_BAR}, **FAST).verdict == "undecided"
    short = {"revival": Revivals((4, 5, 6), 32), "revival_null": Revivals((None,), 17)}
    assert judge(**UNTAUGHT, **short).verdict == "undecided"
    assert judge(**{**UNTAUGHT, "untaught": NEVER}).verdict == "gone"
    reason = judge(**UNTAUGHT, **FAST).reason
    assert "trained back on some questions it soon answers others, whose answers that did not teach" in reason
