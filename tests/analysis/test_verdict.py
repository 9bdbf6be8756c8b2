from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ftmech_hf.analysis.verdict import Evidence, Revivals, VerdictRule, judge_capability, read_signs
from ftmech_hf.intervals import Share, paired_difference, share_interval


def share(percent: float, rows: int = 500) -> Share:
    return share_interval(round(percent / 100 * rows), rows)


def drop(before: int, after: int, rows: int = 500) -> Share:
    return paired_difference([n < before for n in range(rows)], [n < after for n in range(rows)])


LOST = Evidence(
    chance=0.4, base=share(100), finetuned=share(5), drop=drop(500, 25),
    pruned=share(20), pruned_random=share(10),
    late=share(30), late_null=share(20), early=share(30), early_null=share(20),
    read=share(60), read_base=share(100), read_null=share(60),
    revival=Revivals((None, None, None), 32), revival_null=Revivals((None, None, None), 32),
)  # fmt: skip
"""Nothing shows."""
PRUNED = {"pruned": share(95)}
HALF = {"late": share(95)}
READ = {"read": share(98)}
FAST = {"revival": Revivals((4, 5, 6), 32), "revival_null": Revivals((None, None, None), 30)}


def judged(**changes: Any) -> str:
    return judge_capability(dataclasses.replace(LOST, **changes)).verdict


def test_each_verdict_is_reached() -> None:
    assert judged() == "gone"
    assert judged(**PRUNED, **HALF, **READ, **FAST) == "behind a wrapper"
    assert judged(**FAST) == "weakened"
    assert judged(finetuned=share(98), drop=drop(500, 490)) == "unchanged"
    assert judged(base=share(45)) == "undecided"


@pytest.mark.parametrize("sign", [PRUNED, FAST])
@pytest.mark.parametrize("other", [HALF, READ])
def test_two_signs_make_a_wrapper_if_one_is_behaviour(sign: dict[str, Any], other: dict[str, Any]) -> None:
    assert judged(**sign) == "weakened"
    assert judged(**sign, **other) == "behind a wrapper"
    assert judged(**HALF, **READ) == "weakened"


def test_a_sign_alone_is_something_but_no_wrapper() -> None:
    assert {judged(**sign) for sign in (PRUNED, HALF, READ, FAST)} == {"weakened"}


@pytest.mark.parametrize(
    ("sign", "control"),
    [
        (PRUNED, {"pruned_random": share(90)}),
        (HALF, {"late_null": share(95)}),
        (READ, {"read_null": share(98)}),
        (FAST, {"revival_null": Revivals((None, None, 11), 30)}),
    ],
)
def test_a_control_that_shows_it_takes_the_sign_away(sign: dict[str, Any], control: dict[str, Any]) -> None:
    number = [PRUNED, HALF, READ, FAST].index(sign)
    assert read_signs(dataclasses.replace(LOST, **sign), VerdictRule())[number].holds
    assert not read_signs(dataclasses.replace(LOST, **{**sign, **control}), VerdictRule())[number].holds
    assert judged(**{**sign, **control}) == "gone"


def test_intervals_count_not_values() -> None:
    few = share(75, rows=20)  # above the bar of 70 %, but 53 to 88 %
    assert few.value > 0.7 > few.low
    assert judged(pruned=few) == "gone"
    assert judged(pruned=share(75, rows=2000)) == "weakened"
    # one slow repetition decides
    assert judged(revival=Revivals((2, 2, 7), 32), revival_null=Revivals((None, None, 13), 34)) == "gone"
    assert judged(revival=Revivals((2, None, 2), 32), revival_null=Revivals((None,) * 3, 200)) == "gone"


def test_what_comes_back_faster_than_it_is_learned_is_not_gone() -> None:
    back = Revivals((4, 5, 6), 32)
    assert judged(revival=back, revival_null=Revivals((12, 20, 20), 30)) == "weakened"
    assert judged(revival=back, revival_null=Revivals((11, 20, 20), 30)) == "gone"
    assert judged(revival=Revivals((0, 0), 32), revival_null=Revivals((1, 1), 5)) == "gone"  # naming one answer will do


def test_what_is_half_there_is_weakened_even_if_all_signs_show() -> None:
    half = {"finetuned": share(85), "drop": drop(500, 425)}
    assert judged(**half, **PRUNED, **HALF, **READ, **FAST) == "weakened"
    assert judged(**half) == "weakened"


def test_a_small_fall_needs_enough_rows() -> None:
    small = {"base": share(97, 60), "finetuned": share(95, 60), "drop": drop(58, 57, rows=60)}
    assert small["drop"].low <= 0 < 0.05 < small["drop"].high
    result = judge_capability(dataclasses.replace(LOST, **small))
    assert (result.verdict, "use more rows" in result.reason) == ("undecided", True)
    assert judged(base=share(97), finetuned=share(95), drop=drop(485, 475)) == "unchanged"
    assert judged(base=share(80), finetuned=share(90), drop=drop(400, 450)) == "unchanged"  # it got better


def test_without_a_cut_for_the_last_blocks_the_first_decide() -> None:
    none = {"late": None, "late_null": None}
    assert judged(**none, **FAST) == "weakened"
    assert judged(**none, **FAST, early=share(95)) == "behind a wrapper"


def test_steps_of_several_repetitions() -> None:
    assert (Revivals((3, 5), 32).slowest, Revivals((3, 5), 32).fastest) == (5, 3)
    assert (Revivals((3, None), 32).slowest, Revivals((None, None), 32).fastest) == (None, 32)
    result = judge_capability(dataclasses.replace(LOST, **FAST))
    assert result.rows()[3]["measured"] == "4, 5, 6 steps"
    assert result.rows()[3]["control"] == "more than 30 steps"
    assert len(result.summary()["signs"]) == 4
