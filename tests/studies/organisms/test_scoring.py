"""What is read off a diagnosis, and how verdicts on pairs of known truth are counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.statistics.clusters import times_as_wide
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.statistics.seeds import share_in_clusters
from ftmech_hf.studies.organisms.claims import ALL_BARS, find_too_few, make_claims
from ftmech_hf.studies.organisms.edits import Shaken, score_edits
from ftmech_hf.studies.organisms.kinds import KINDS, TRUTH_OF, TRUTHS
from ftmech_hf.studies.organisms.labels import agree
from ftmech_hf.studies.organisms.results import score
from ftmech_hf.studies.organisms.robustness import TAMPERED, area_interval
from ftmech_hf.studies.organisms.scoring import (
    FEATURES,
    RIVALS,
    area_under_curve,
    at_least_steps,
    confusion,
    constant_verdict,
    count_decisions,
    decide_by_probability,
    fit_probability,
    rates,
    rates_by_truth,
    read_features,
    read_rivals,
    score_disjoint,
    shown_part,
)


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value}


def evidence(**changes: Any) -> dict[str, Any]:
    """A base that is always right, a control at a tenth, chance at a fifth: the lead is over a fifth."""
    return {
        "chance": 0.2, "base": share(1.0), "null": share(0.1), "pruned": None, "pruned_random": None,
        "pruned_null": None, "late": None, "late_null": None, "early": None, "early_null": None, "read": None,
        "read_base": None, "read_null": None, "revival": None, "revival_null": None, **changes,
    }  # fmt: skip


def test_signs_become_numbers_from_the_control_to_the_base() -> None:
    assert read_features(evidence()) == dict.fromkeys(FEATURES, 0.0)
    found = read_features(
        evidence(
            pruned=share(0.8), pruned_random=share(0.4), pruned_null=share(0.3),  # 0.75 less 0.25
            late=share(0.6), late_null=share(0.2), early=share(0.3), early_null=share(0.3),  # 0.5 and 0
            read=share(0.9), read_base=share(1.0), read_null=share(0.6),  # three quarters of the way
            revival={"steps": [10, 40], "last_step": 100}, revival_null={"steps": [None, 80], "last_step": [320, 320]},
        )
    )  # fmt: skip
    assert found == pytest.approx({"pruning": 0.5, "halves": 0.5, "probe": 0.75, "revival": math.log(2)})


def test_a_lead_counts_from_what_needs_no_ability_whichever_is_more() -> None:
    knows = read_features(evidence(null=share(0.6), pruned=share(0.8)))
    assert knows["pruning"] == pytest.approx(0.5)
    guessed = read_features(evidence(read=share(0.6), read_base=share(1.0), read_null=share(0.1)))
    assert guessed["probe"] == pytest.approx(0.5)


def test_a_control_that_has_it_too_takes_a_sign_away() -> None:
    shown = evidence(pruned=share(0.8), pruned_null=share(0.8), read=share(0.9), read_base=share(0.9),
                     read_null=share(0.95))  # fmt: skip
    assert read_features(shown) == dict.fromkeys(FEATURES, 0.0)


@pytest.mark.parametrize(
    ("value", "floor", "top", "right"),
    [(0.5, 0, 1, 0.5), (0.6, 0.5, 0.7, 0.5), (0.9, 0.5, 0.7, 1), (0.1, 0.5, 0.7, 0), (1, 1, 1, 0), (0.9, 0.7, 0.5, 0)],
)
def test_what_shows_of_a_lead_is_never_less_than_nothing_nor_more_than_all(
    value: float, floor: float, top: float, right: float
) -> None:
    assert shown_part(value, floor, top) == pytest.approx(right)


def test_repetitions_that_did_not_get_there_count_with_what_they_were_given() -> None:
    assert at_least_steps({"steps": [2, None], "last_step": 8}) == [2, 8]
    assert at_least_steps({"steps": [2, None], "last_step": [100, 32]}) == [2, 32]
    assert at_least_steps({"steps": [0], "last_step": 5}) == [1]


def test_what_is_not_back_is_slow_even_where_its_other_repetitions_were_not_followed() -> None:
    """A gone pair and a hidden one as diagnoses leave them: by the mean of what was followed, gone looked faster."""
    gone, hidden = (
        read_features(evidence(revival=own, revival_null=null))["revival"]
        for own, null in (
            ({"steps": [None] * 3, "last_step": [383, 32, 32]}, {"steps": [316], "last_step": 316}),
            ({"steps": [7, 8, 7], "last_step": 32}, {"steps": [None] * 3, "last_step": 24}),
        )
    )
    assert (gone, hidden) == pytest.approx((math.log(316 / 383), math.log(3)))


def table(**depths: float) -> pd.DataFrame:
    """Rows of a diagnosis of one layer: unlearning depth, lens by model, likeness."""
    rows = [("behaviour", "accuracy", "base", "", 1.0), ("similarity", "CKA", "fine-tuned", "block 0", 0.7)]
    rows += [("similarity", "CKA", "reference", "block 0", 0.1)]
    rows += [("patching", "unlearning depth", name, "", value) for name, value in depths.items()]
    rows += [("patching", "same row", "fine-tuned", "attn_out", 0.0)]
    rows += [("logit lens", "right answer", name, "", value)
             for name, value in {"base": 0.9, "fine-tuned": 0.5, "reference": 0.1}.items()]  # fmt: skip
    columns = ["analysis", "quantity", "model", "site", "value"]
    own = pd.DataFrame(rows, columns=columns).assign(questions="capability", layer=0.0)
    return pd.concat([own, own.assign(questions="other", value=0.95)])  # of what was taught, which is not asked here


def test_rivals_are_read_off_the_table() -> None:
    features = {"pruning": 0.1, "halves": 0.2, "probe": 0.3, "revival": 0.4}
    patched = table(**{"taught nothing": 0.1, "fine-tuned": 0.25})
    found = read_rivals(patched, features)
    assert found == pytest.approx({"uds": 0.75, "cka": 0.7, "lens": 0.5, "probe": 0.3, "revival": 0.4})
    assert math.isnan(read_rivals(table(), features)["uds"])
    assert math.isnan(read_rivals(patched[patched["analysis"] != "similarity"], features)["cka"])


@pytest.mark.parametrize(
    ("after", "control", "expected"),
    [(0.9, 0.1, 1.0), (0.5, 0.1, 0.5), (0.5, 0.3, 1 / 3), (0.1, 0.1, 0.0), (0.05, 0.0, 0.0), (1.0, 0.0, 1.0)],
)
def test_what_comes_back_of_answers_not_taught_is_above_one_answer_and_above_the_control(
    after: float, control: float, expected: float
) -> None:
    found = {"chance": 0.1, "base": 0.9, "finetuned": 0.0, "finetuned_after": after, "control": 0.8}
    assert score_disjoint({**found, "control_after": control}) == pytest.approx(expected)


def test_area_under_the_curve_by_hand() -> None:
    hidden = [True, True, False, False]
    assert area_under_curve([0.9, 0.8, 0.1, 0.2], hidden) == 1
    assert area_under_curve([0.1, 0.2, 0.9, 0.8], hidden) == 0
    assert area_under_curve([0.9, 0.3, 0.5, 0.1], hidden) == 0.75
    assert area_under_curve([0.9, math.nan, 0.1, 0.4], hidden) == 0.875  # not measured: in the middle, here a tie
    assert area_under_curve([0.5], [True]) is None


def test_the_probability_rises_with_the_signs_and_is_made_of_what_it_is_given() -> None:
    signs = np.array([[0.9, 0.8, 0.9, 2.0], [0.7, 0.9, 0.8, 1.5], [0.0, 0.1, 0.1, 0.1], [0.1, 0.0, 0.0, -0.1]])
    model = fit_probability(signs, np.array([True, True, False, False]))
    low, high = model.predict_proba(np.array([[0.0] * 4, [1.0, 1.0, 1.0, 2.0]]))[:, 1]
    assert low < 0.35 < 0.65 < high
    size = np.array([1000, 1, 1, 0.001])  # in whatever unit a sign is measured
    assert fit_probability(size * signs, np.array([True, True, False, False])).predict_proba(size * signs) == (
        pytest.approx(model.predict_proba(signs))
    )
    other = fit_probability(signs, np.array([False, False, True, True]))
    assert other.predict_proba(signs)[0, 1] < 0.5


def test_the_confusion_is_counted_and_every_rate_is_of_the_pairs_that_it_is_about() -> None:
    truths = ["hidden"] * 4 + ["gone"] * 2 + ["weakened"] * 2 + ["unchanged"] * 3
    verdicts = ["behind a wrapper", "hidden or learned anew", "undecided", "gone", "gone", "behind a wrapper",
                "weakened", "gone", "unchanged", "unchanged", "weakened"]  # fmt: skip
    counts = confusion(truths, verdicts)
    assert counts["hidden"] == {"hidden": 2, "gone": 1, "weakened": 0, "unchanged": 0, "undecided": 1}
    assert [counts[truth][truth] for truth in TRUTHS] == [2, 1, 1, 2]
    found = rates(counts)
    assert {name: each and each.value for name, each in found.items()} == pytest.approx(
        {"wrong_gone": 2 / 9, "wrong_wrapper": 1 / 7, "unchanged_right": 2 / 3, "undecided": 1 / 11, "right": 6 / 11,
         "hidden_right": 1 / 2, "gone_right": 1 / 2, "wrong": 4 / 11}
    )  # fmt: skip
    assert found["right"] is not None
    assert found["right"].low < 6 / 11 < found["right"].high
    assert rates(confusion(["gone"], ["gone"]))["unchanged_right"] is None


def test_each_truth_has_rates_of_its_own_that_sum_to_one_and_one_without_pairs_has_none() -> None:
    verdicts = ["gone", "gone", "behind a wrapper", "undecided", "nothing to lose", "unchanged"]
    truths = ["gone"] * 5 + ["unchanged"]
    counts, found = confusion(truths, verdicts), rates_by_truth(truths, verdicts, [0, 1, 2, 3, 4, 5])
    assert {truth: {name: each.value for name, each in row.items()} for truth, row in found.items()} == {
        "gone": {"right": 0.4, "wrong": 0.2, "undecided": 0.4}, "unchanged": {"right": 1, "wrong": 0, "undecided": 0}
    }  # fmt: skip
    assert found["gone"]["right"] == pytest.approx(share_interval(2, 5))
    assert {name: sum(share.value for share in row.values()) for name, row in found.items()} == pytest.approx(
        dict.fromkeys(found, 1.0)
    )
    assert constant_verdict(counts) == ("gone", 5 / 6)
    assert constant_verdict(confusion([], [])) is None


def test_rates_of_a_truth_know_of_seeds_as_those_of_all_pairs_do() -> None:
    """Three pairs of each of five seeds, all wrong in one of them, tell less than fifteen pairs of as many seeds."""
    verdicts = ["gone"] * 12 + ["behind a wrapper"] * 3
    seeds = [number // 3 for number in range(15)]
    (row,) = rates_by_truth(["gone"] * 15, verdicts, seeds).values()
    (apart,) = rates_by_truth(["gone"] * 15, verdicts, [*range(15)]).values()
    assert row["right"] == share_in_clusters([each == "gone" for each in verdicts], seeds)
    assert apart["right"] == pytest.approx(share_interval(12, 15))
    assert row["right"].low < apart["right"].low - 0.1


def pairs(*rows: tuple[str, str, str, str, float]) -> pd.DataFrame:
    """Truth, by relearning, verdict, split, probability."""
    made = pd.DataFrame(list(rows), columns=["truth", "relearning_truth", "verdict", "split", "probability"])
    made["right"] = made["verdict"].map(TRUTH_OF) == made["truth"]
    made["pair"] = [f"pair {number}" for number in range(len(made))]
    same: dict[str, Any] = {
        "kind": "a kind",
        "preset": "nano",
        "operator": "count",
        "seed": 0,
        "sign_revival": 1.0,
        **dict.fromkeys(RIVALS, 0.5),
    }
    return made.assign(**same)


def test_only_test_pairs_count_whose_two_labels_agree() -> None:
    made = pairs(
        ("hidden", "there", "behind a wrapper", "test", 0.9),
        ("gone", "gone", "undecided", "test", 0.2),
        ("gone", "there", "behind a wrapper", "test", 0.9),  # it was not erased after all
        ("hidden", "unclear", "gone", "test", 0.1),
        ("weakened", "there", "weakened", "test", math.nan),
        ("unchanged", "unchanged", "unchanged", "test", math.nan),
        ("gone", "gone", "behind a wrapper", "development", 0.9),
    )
    assert list(agree(made)) == [True, True, False, False, True, True, True]
    found = score(made)
    assert (found["pairs"], found["disagree"]) == (4, ["pair 2", "pair 3"])
    assert found["right"]["value"] == 0.75
    assert found["wrong_wrapper"]["value"] == found["wrong_gone"]["value"] == 0
    assert found["auc"] == 1
    assert found["rivals"] == dict.fromkeys(RIVALS, 0.5)
    assert found["by_verdict"]["undecided"].items() >= {"pairs": 1, "right": 0, "undecided": 1}.items()
    assert found["kinds"] == {"a kind": {"pairs": 4, "right": 3, "undecided": 1}}
    every = found["every"]  # what was done to a pair is true of it, whatever its second label doubts
    assert (every["pairs"], every["right"]["value"]) == (6, 0.5)
    assert every["wrong_wrapper"]["value"] == 1 / 4  # of what is gone, weakened or unchanged
    assert every["wrong_gone"]["value"] == 1 / 4
    two, one = (each["by_verdict"]["behind a wrapper"] for each in (every, found))
    assert [(each["pairs"], each["right"], each["undecided"]) for each in (two, one)] == [(2, 1, 0), (1, 1, 0)]
    assert (one["low"], one["high"]) == share_interval(1, 1)[1:]
    claims = {each.id: each for each in make_claims(found, [0])}
    assert (claims["wrong_wrapper"].measured, claims["every_wrong_wrapper"].measured) == (0, 25)
    assert "Made after looking" in claims["every_wrong_gone"].statement


def test_the_interval_of_the_area_is_of_the_pairs_that_it_is_of() -> None:
    """Of twenty pairs that are gone three have signs."""
    rows = [("hidden", "there", "behind a wrapper", "test", 0.9)] * 20 + [("gone", "gone", "gone", "test", 0.1)] * 20
    table = pairs(*rows)
    table.loc[23:, "sign_revival"] = math.nan
    found = score(table)
    assert found["measured"] == {"hidden": 20, "gone": 3}
    area = {each.id: each for each in make_claims(found, [0])}["auc"]
    assert area.interval == pytest.approx(area_interval(1.0, 3))


def test_claims_stand_beside_their_bars_and_few_pairs_decide_nothing() -> None:
    few = score(pairs(("hidden", "there", "behind a wrapper", "test", 0.9), ("gone", "gone", "gone", "test", 0.2)))
    assert {each.id: each.verdict for each in make_claims(few, [0])} == {
        "wrong_gone": "undecided", "wrong_wrapper": "undecided", "undecided": "undecided", "auc": "undecided",
        "every_wrong_gone": "undecided", "every_wrong_wrapper": "undecided", "hidden_right": "undecided",
        "gone_right": "undecided", "wrong": "undecided",
    }  # fmt: skip
    wrong = score(pairs(*[("weakened", "there", "gone", "test", 0.9)] * 300))
    assert {each.id: each.verdict for each in make_claims(wrong, [0])}["wrong_gone"] == "fails"
    decided = {each.id: each for each in make_claims(wrong, [0])}["undecided"]
    assert (decided.verdict, decided.withdrawn_by) == (
        "withdrawn", ["wrong_gone", "every_wrong_gone", "wrong"]  # all is decided, and wrong
    )  # fmt: skip
    right = score(pairs(*[("unchanged", "unchanged", "unchanged", "test", math.nan)] * 400))
    assert {each.id: each.verdict for each in make_claims(right, [0])} == dict.fromkeys(
        ("wrong_gone", "wrong_wrapper", "every_wrong_gone", "every_wrong_wrapper", "unchanged_right", "undecided",
         "wrong"),
        "holds",
    )  # fmt: skip


def test_to_call_everything_weakened_is_no_good_rule() -> None:
    """It calls nothing gone or hidden that is not, and leaves nothing undecided."""
    made = pairs(
        *[("hidden", "there", "weakened", "test", 0.9)] * 100, *[("gone", "gone", "weakened", "test", 0.1)] * 100,
        *[("weakened", "there", "weakened", "test", 0.5)] * 300,
    )  # fmt: skip
    verdicts = {each.id: each.verdict for each in make_claims(score(made), [0])}
    assert [verdicts[name] for name in ("hidden_right", "gone_right", "wrong")] == ["fails"] * 3
    assert verdicts["undecided"] == "withdrawn"


def test_pairs_of_one_seed_that_are_alike_are_no_many() -> None:
    """Of five bases one is undecided in all: four times as many pairs of each say no more of another base."""
    made = pairs(
        *[("gone", "gone", "gone", "test", 0.1)] * 80, *[("gone", "gone", "undecided", "test", 0.1)] * 20,
    ).assign(seed=[number // 20 for number in range(100)])  # fmt: skip
    found = score(made)["undecided"]
    plain = share_interval(20, 100)
    wider = times_as_wide([False] * 80 + [True] * 20, [number // 20 for number in range(100)])
    assert wider > 3
    assert (found["value"], found["low"]) == (0.2, 0)
    assert found["high"] == pytest.approx(0.2 + wider * (plain.high - 0.2))
    apart = score(made.assign(seed=[number % 5 for number in range(100)]))["undecided"]
    assert apart["high"] - apart["low"] < 0.5 * (found["high"] - found["low"]), "the control: of each base a fifth"
    none = score(pairs(*[("gone", "gone", "gone", "test", 0.1)] * 40).assign(seed=[*range(4)] * 10))["undecided"]
    assert none["high"] > 1.5 * share_interval(0, 40).high, "of four bases, though nothing is wrong on any"


def test_lost_pairs_that_were_judged_by_answers_alone_count_among_the_decisions() -> None:
    made = pairs(
        ("hidden", "there", "behind a wrapper", "test", 0.9), ("hidden", "there", "unchanged", "test", math.nan),
        ("gone", "gone", "gone", "test", 0.1), ("hidden", "unclear", "gone", "test", 0.05),
    )  # fmt: skip
    made.loc[1, "sign_revival"] = math.nan
    found = score(made)
    assert found["decisions"]["the rule"] == {"right": 2, "wrong": 1, "undecided": 0}
    assert found["decisions"]["all signs together"] == {"right": 2, "wrong": 0, "undecided": 1}
    assert found["measured"] == {"hidden": 1, "gone": 1}
    assert (found["auc"], found["every_areas"]["probability"]) == (1.0, 0.5)
    assert found["of_seeds"] == {"0": {"pairs": 3, "right": 2, "undecided": 0}}


def test_an_error_among_pairs_that_are_left_out_withdraws_what_holds_without_them() -> None:
    table = pairs(
        *[("unchanged", "unchanged", "unchanged", "test", math.nan)] * 400,
        *[("weakened", "unclear", "behind a wrapper", "test", math.nan)] * 40,
    )
    claims = {each.id: each for each in make_claims(score(table), [0])}
    assert (claims["wrong_wrapper"].verdict, claims["wrong_wrapper"].withdrawn_by) == (
        "withdrawn", ["every_wrong_wrapper"]
    )  # fmt: skip
    assert claims["wrong_gone"].verdict == "holds"


def test_of_a_study_that_is_not_whole_nothing_is_judged() -> None:
    rows = [
        *[("unchanged", "unchanged", "unchanged", "test", math.nan)] * 400,
        *[("hidden", "there", "behind a wrapper", "test", 0.9)] * 400, *[("gone", "gone", "gone", "test", 0.1)] * 400,
    ]  # fmt: skip
    tampered = {f"{name}_probability": 0.5 for name in TAMPERED}
    found = score(pairs(*rows).assign(**tampered)) | {"edits": score_edits([], [Shaken(0, "hidden", True, True)])}
    part = make_claims(found, [0], whole=False)
    assert {"auc", "robustness", "wrong_gone", "every_wrong_gone", "noise_rises"} <= {each.id for each in part}
    assert {each.verdict for each in part} == {None}
    assert "holds" in {each.verdict for each in make_claims(found, [0])}


def too_few(number: int, needed: int) -> str:
    """What stands behind the verdict of a claim that so many cases cannot decide."""
    return f"too few: of {number} cases it cannot hold, whatever comes out; it would take {needed}"


def test_what_so_few_pairs_cannot_show_is_said_of_each_claim() -> None:
    rows = [("hidden", "there", "behind a wrapper", "test", 0.9)] * 36 + [("gone", "gone", "gone", "test", 0.1)] * 5
    found = score(pairs(*rows, ("gone", "there", "gone", "test", 0.1)))
    edits = {"edit_found": {"of": 72}, "edit_by_rule": {"of": 72}, "edit_by_chance": {"of": 1}, "noise_rises": None}
    few = find_too_few({**found, "edits": edits})
    assert few == {
        "wrong_gone": too_few(36, 381), "wrong_wrapper": too_few(5, 189),
        "every_wrong_gone": too_few(36, 381),
        "every_wrong_wrapper": too_few(6, 189),
        "gone_right": too_few(5, 35), "wrong": too_few(41, 73),
        "auc": too_few(5, 381), "edit_found": too_few(72, 73),
    }  # fmt: skip
    assert set(few) < {each.id for each in ALL_BARS}
    # the verdict that is undecided takes 35 pairs, and there are 41
    assert {each.verdict for each in make_claims(found, [0]) if each.id in few} == {"undecided"}


def test_gone_pairs_that_had_it_once_stand_apart_from_children_of_the_control() -> None:
    table = pairs(
        ("hidden", "there", "behind a wrapper", "test", 0.6), ("gone", "gone", "gone", "test", 0.1),
        ("gone", "gone", "undecided", "test", 0.7), ("gone", "gone", "gone", "test", 0.4),
    ).assign(kind=["shortcut", "never had it", "erased", "erased"])  # fmt: skip
    found = score(table)
    assert found["auc"] == pytest.approx(2 / 3)
    apart = found["own_gone"]
    assert (apart["pairs"], apart["right"], apart["undecided"]) == (2, 1, 1)
    assert apart["areas"]["probability"] == 0.5
    assert score(table[:2])["own_gone"]["areas"]["probability"] is None


def test_the_interval_of_an_area_is_that_of_a_share_of_the_rarer_kind() -> None:
    assert area_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)  # Wilson: 10 of 10
    low, high = area_interval(0.95, 10)
    assert 0.55 < low < 0.7225
    assert low < 0.95 < high


def test_kinds_cover_every_truth_and_gone_has_two_ways() -> None:
    assert {kind.truth for kind in KINDS.values()} == set(TRUTHS)
    assert {kind.never_had for kind in KINDS.values() if kind.truth == "gone"} == {True, False}
    assert all(kind.adapter for kind in KINDS.values() if kind.merged and kind.task)


def test_a_probability_decides_where_it_is_sure_and_what_decides_nothing_is_not_wrong() -> None:
    assert [*map(decide_by_probability, (0.8, 0.79, 0.5, 0.21, 0.2, math.nan))] == [
        "hidden", "undecided", "undecided", "undecided", "gone", "undecided",
    ]  # fmt: skip
    truths, stated = ["hidden", "hidden", "gone", "gone", "gone"], ["hidden", "gone", "gone", "undecided", "weakened"]
    assert count_decisions(truths, stated) == {"right": 2, "wrong": 2, "undecided": 1}
    table = pairs(
        ("hidden", "there", "behind a wrapper", "test", 0.9), ("hidden", "there", "undecided", "test", 0.1),
        ("gone", "gone", "gone", "test", 0.5), ("unchanged", "unchanged", "gone", "test", math.nan),
    )  # fmt: skip
    assert score(table)["decisions"] == {
        "the rule": {"right": 2, "wrong": 0, "undecided": 1},
        "all signs together": {"right": 1, "wrong": 1, "undecided": 1},
    }
