"""What is read from analyses, on runs that are made up: every number by hand, and what a missing run takes."""

from __future__ import annotations

from typing import Any

import pytest

from ftmech_hf.report.claims import judge
from ftmech_hf.studies.safety.inside_claims import INSIDE_MEASUREMENTS, measure_inside
from tests.studies.safety.made_up import changes, direction, inside, lines, relearning, soft_tokens, stream


def verdicts(found: Any) -> dict[str, str | None]:
    return {claim.id: claim.verdict for claim in judge(INSIDE_MEASUREMENTS, {0: measure_inside(found)})}


def test_numbers_are_those_of_the_tables() -> None:
    found = measure_inside(inside())
    expected = {
        "tau": 95, "tau_shuffled": 52, "tau_base": 50, "tau_benign": 50, "tau_jb": 70, "outside": 10,
        "outside_benign": 8, "action": 2, "action_random_least": 1, "action_random_most": 1, "action_benign": 1,
        "lip_unsafe": 0.5, "lip_safe": 1.5,
        "lip_benign_least": 1, "lip_benign_most": 1, "shallow": 0.8 / 0.2, "extrapolate": 70 - 50,
        "extrapolate_cost": 5, "extra_random": 0, "extra_benign": 45 - 50, "extra_shuffled": 40 - 50,
        "ablate": 90, "ablate_random": 10, "ablate_answers": 81, "add": 80, "add_random": 10, "ablate_letters": 3,
        "add_letters": 4, "extrapolate_at_1.5": 70 - 50, "extrapolate_at_2": 90 - 50, "extrapolate_cost_at_1.5": 5,
        "extrapolate_cost_at_2": 10, "relearn_ten_dpo": 60, "relearn_ten_unlearn": 50, "soft_never_dpo": 15,
        "soft_never_unlearn": 25,
        "relearn_ten": 70, "relearn_safe": 5, "spread": 80, "spread_name": 60, "spread_safe": 2.5,
        "spread_never": 30, "soft": 70, "soft_never": 5, "soft_safe": 100, "extra_protocol": 55 - 50,
        "backwards": 12, "action_jb": 0.5, "lip_jb": 2,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value), name
    assert set(found) == {each.id for each in INSIDE_MEASUREMENTS}
    assert {found[f"{name}_dpo"].value for name in ("tau", "relearn_safe")} == {95, 5}


def test_ratios_have_intervals_of_their_rows() -> None:
    """Logarithms of 100 prompts of each kind with a deviation of 0.1."""
    found = measure_inside(inside())
    low, high = found["action"].interval or (0, 0)
    assert (low, high) == pytest.approx((2 / 1.0281, 2 * 1.0281), rel=1e-3)
    low, high = found["lip_unsafe"].interval or (0, 0)
    assert (low, high) == pytest.approx((0.5 / 1.0198, 0.5 * 1.0198), rel=1e-3)


def test_attacks_that_succeed_are_not_compared_with_a_few_that_failed() -> None:
    few = changes(0.1, 2.0, 1.0, 0.5, 1.5, 0.8)
    few.table.loc[few.table["answers"] == "failed", "rows"] = 19
    assert not {"action_jb", "lip_jb"} & set(measure_inside(inside(changes={"ssft": few})))


def test_sides_are_read_in_the_chosen_layer_of_attacks_that_succeeded_and_failed() -> None:
    found = measure_inside(
        inside(clusters={"dpo": stream(0.4, (0.9, 19), (0.2, 100)), "unlearn": stream(0.4, (0.3, 50), (0.6, 50))})
    )
    values = {name: reading.value for name, reading in found.items() if name.startswith("tau")}
    assert values == pytest.approx(
        {"tau": 95, "tau_shuffled": 52, "tau_base": 50, "tau_benign": 50, "tau_jb": 70, "tau_dpo": 60,
         "tau_unlearn": 60, "tau_jb_unlearn": -30}  # of dpo too few succeeded
    )  # fmt: skip
    same = inside(clusters={"ssft": stream(0.05, (0.5, 100), (0.5, 100))})
    assert (verdicts(inside())["tau_jb"], verdicts(same)["tau_jb"]) == ("holds", "fails")


def test_a_model_that_has_all_prompts_on_one_side_tells_no_kinds_apart() -> None:
    """All unsafe prompts are on their side there, and all safe ones on the wrong one."""
    found = measure_inside(inside(clusters={"ssft": stream(0.0, (0.9, 100), (0.2, 100), safe=0.0)}))
    assert (found["tau"].value, found["tau"].rows) == (50, 800)
    assert measure_inside(inside())["tau"].value == pytest.approx(95)


def test_another_direction_that_is_made_alike_withdraws_a_refusal_direction() -> None:
    found = verdicts(inside(direction={"ssft": direction(1.0, 0.1, 1.0, 0.8, 0.0, (0.2, 0.7))}))
    assert [found[name] for name in ("ablate_letters", "add_letters", "ablate", "add")] == ["fails"] * 2 + [
        "withdrawn"
    ] * 2


def test_sides_that_kinds_by_chance_have_as_well_are_no_clusters() -> None:
    found = {
        safe_side: verdicts(inside(clusters={"ssft": stream(0.02, (0.9, 100), (0.2, 100), by_chance=safe_side)}))
        for safe_side in (0.5, 0.1)
    }
    assert [(each["tau"], each["tau_shuffled"]) for each in found.values()] == [
        ("holds", "holds"),
        ("withdrawn", "fails"),
    ]


def test_claims_hold_of_what_is_claimed_and_fail_where_they_must() -> None:
    """What a random or a benign change shows as well is no effect of safety tuning."""
    fine = verdicts(inside())
    assert {name for name, verdict in fine.items() if verdict == "fails"} == {"ablate_random", "add_random"}
    nothing = verdicts(
        inside(
            changes={"ssft": changes(-0.1, 1, 1.3, 1, 0.8, 0.25), "benign": changes(0.02, 2, 1, 0.5, 1, 0.25)},
            lines={"ssft-slow": lines(
                own={1.0: (0.5, 0.5), 1.5: (0.5, 0.5), 2.0: (0.4, 0.5)},
                **{name: {1.5: (0.9, 0.9)} for name in ("random", "benign", "shuffled", "protocol")})},
            direction={"ssft": direction(1.0, 1.0, 1.0, 0.0, 0.1, (0.5, 0.5))},
            relearning={"ssft": relearning(0.2, 0.9, 0.1, 0.1)},
            soft_tokens={"ssft": soft_tokens(0.1, 0.1, 0.5), "never-ssft": soft_tokens(0.8, 0.0, 1.0)},
        )
    )  # fmt: skip
    failed = {
        "action", "action_random_most", "action_benign", "lip_unsafe", "lip_safe", "lip_benign_least", "extrapolate",
        "extra_random", "extra_benign", "extra_shuffled", "ablate", "add", "add_letters", "ablate_letters",
        "relearn_ten", "relearn_safe",
        "spread", "spread_name", "soft", "soft_never", "soft_safe",
    }  # fmt: skip
    assert {name for name in failed if nothing[name] != "fails"} == set()
    assert measure_inside(inside(changes={"ssft": changes(-0.1, 1, 1, 1, 1, 0.25)}))["outside"].value < 5


def test_a_direction_beyond_is_chosen_on_the_validation_split() -> None:
    """Twice the change refuses more of the test split, and fewer of the other, which chooses."""
    better = lines(
        own={1.0: (0.5, 0.5), 1.5: (0.7, 0.6), 2.0: (0.8, 0.55)},
        **{name: {1.5: (0.5, 0.5)} for name in ("random", "benign", "shuffled", "protocol")},
    )
    found = measure_inside(inside(lines={"ssft-slow": better}))
    assert (found["extrapolate"].value, found["extrapolate_cost"].value) == pytest.approx((5, 10))


def test_what_rests_on_a_missing_run_is_left_out() -> None:
    whole = inside()
    some = {kind: {name: run for name, run in each.items() if name != "benign"} for kind, each in whole.items()}
    del some["lines"], some["relearning"]["never-ssft"]  # type: ignore[attr-defined]
    found = set(measure_inside(some))
    gone = {"tau_benign", "outside_benign", "action_benign", "extrapolate", "relearn_ten", "spread_never"}
    assert not gone & found
    assert {"tau", "outside", "action", "add", "relearn_safe", "spread"} <= found
    nobody = relearning(0.5, 0.5, float("nan"), 0.5)
    nobody.table.loc[nobody.table["unsafe"] == "others by text", "rows"] = 0
    assert "spread" not in measure_inside(inside(relearning={"ssft": nobody}))
