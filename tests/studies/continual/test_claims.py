from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ftmech_hf.analysis.revival import RevivalResult
from ftmech_hf.report.claims import judge
from ftmech_hf.studies.continual import claims
from ftmech_hf.studies.continual.capabilities import task_of
from ftmech_hf.studies.continual.claims import BEST, MEASUREMENTS, SeedMatrix, measure
from ftmech_hf.studies.continual.methods import CHOSEN_SHARE, METHODS, StrengthConfig, choose_strength
from ftmech_hf.studies.continual.sequences import CAPABILITIES, NEVER_TUNED, TUNED
from ftmech_hf.tasks import PcfgShape, RowStream
from ftmech_hf.training.settings import TrainConfig

KEPT = {
    "plain": 0.3, "l2sp": 0.6, BEST: 0.8, "lp-ft": 0.5, "own-answers": 0.97, "ldifs-random": 0.31, "ldifs-faint": 0.31,
    "ewc": 0.6, "ewc-permuted": 0.4, "replay": 0.7, "replay-shuffled": 0.5,
}  # fmt: skip
"""Method -> what is left in the end of what is never tuned."""

PROBES = {"base": 0.9, "plain": 0.88, "random": 0.6}


def matrix(kept: Mapping[str, float] = KEPT, learned: Mapping[str, float] | None = None) -> pd.DataFrame:
    """A seed whose base knows 1.0 and which learns every task to 0.9, at 1,024 texts."""
    rows = []

    def add(method: str, after: int, name: str, value: float, by: str = "behaviour", site: str = "") -> None:
        any_place = method in ("base", "random") or method.startswith("single-") or method == "joint"
        rows.append({"sequence": "any" if any_place else "s1", "method": method, "after_task": after, "seed": 0,
                     "capability": name, "by": by, "site": site, "value": value, "floor": 0.1, "rows": 1024,
                     "shuffled": 0.12})  # fmt: skip

    for each in CAPABILITIES:
        add("base", 0, str(each), 1.0 if each in NEVER_TUNED else 0.2)
        add("joint", 1, str(each), 0.95)
    for method, left in kept.items():
        for after in range(1, 5):
            for each in NEVER_TUNED:
                add(method, after, str(each), 1.0 - (1.0 - left) * after / 4)
            for number, each in enumerate(TUNED, start=1):
                right = (learned or {}).get(method, 0.9)
                add(method, after, str(each), right if number == after else 0.2 if number > after else right - 0.1)
    for method, value in PROBES.items():
        for each in NEVER_TUNED:
            for site in ("best", "final norm"):
                add(method, 4 if method == "plain" else 0, str(each), value - 0.1 * (site == "final norm") * value,
                    "probe", site)  # fmt: skip
    return pd.DataFrame(rows)


def values(table: pd.DataFrame) -> dict[str, float]:
    return {name: each.value for name, each in measure(SeedMatrix(table, "s1"), {}).items()}


def test_claims_are_of_the_rows_they_say() -> None:
    found = values(matrix())
    expected = {
        "gate_count_a": 100, "gate_index_c": 20, "a1": 70, "a1_null": 3, "a2": 50, "a2_random": 1, "a3": 0, "a4": 20,
        "a4_faint_less": 1, "a4_faint_more": -1, "a5": 20, "a6": 2, "a6_final": 1.8, "a6_shuffled": 2, "a6_base": 90,
        "a6_random": 60,
        "a9_ewc": 20,
        "a9_replay": 20, "joint_loss": 5, "plain_loss": 70, "plain_learned": 90, "plain_forgetting": 10,
        "plain_probes": -2, "a2_random_learned": 90,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert not {"a8", "lwf_loss"} & set(found)  # of what is not there nothing is said


def test_what_comes_back_is_measured_in_steps_beside_what_never_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {"plain": 10, "never": 200, "random": 400}
    back: Any = {name: RevivalResult(number, 600, 0.95, 0.5) for name, number in steps.items()}
    monkeypatch.setattr(claims, "read_revival", lambda run, name: run if name == "count_a" else None)
    found = {name: each.value for name, each in measure(SeedMatrix(matrix(), "s1"), back).items()}
    expected = {"a8": 20, "a8_steps": 10, "a8_never": 200, "a8_random": 0.5}
    assert {name: found[name] for name in expected} == expected
    found = {name: each.value for name, each in measure(SeedMatrix(matrix(), "s1"), {"plain": back["plain"]}).items()}
    assert not set(expected) & set(found)  # alone it says nothing


def test_a_change_of_probes_has_the_interval_of_its_loss_turned_round() -> None:
    found = measure(SeedMatrix(matrix(), "s1"), {})
    low, high = found["plain_probes"].interval or (0.0, 0.0)
    assert low < found["plain_probes"].value < high
    assert found["a6"].interval == pytest.approx((-high, -low))


def test_bars_are_those_that_were_set() -> None:
    """A bar that moves is a change of the study and stands in its history."""
    assert {each.id: each.bar for each in MEASUREMENTS if each.bar} == {
        "gate_count_a": ">= 95", "gate_index_a": ">= 95", "gate_token_at_null": ">= 90", "gate_count_b": "<= 60",
        "gate_index_b": "<= 60", "gate_count_c": "<= 60", "gate_index_c": "<= 60", "gate_learned": ">= 80",
        "a1": ">= 30", "a1_null": "<= 5", "a2": ">= 10", "a2_random": "<= 5", "a3": "<= 5", "a4": ">= 3",
        "a4_learned_less": "<= 2", "a4_learned_more": "<= 2",
        "a4_faint_less": "<= 2", "a4_faint_more": "<= 2", "a5": ">= 0", "a6": "<= 5", "a6_shuffled": "<= 5",
        "a6_twin": ">= 5", "a8": ">= 5", "a8_random": "<= 5", "a9_ewc": ">= 3", "a9_replay": ">= 3",
        "a9_ewc_tasks": ">= 3", "a9_replay_tasks": ">= 3",
        "a6_s3": "<= 5", "a6_s3_lost": ">= 30", "a6_s3_shuffled": "<= 5",
    }  # fmt: skip


def verdict(name: str, table: pd.DataFrame) -> tuple[str | None, list[str]]:
    """Of a claim, judged beside its controls alone: all others take seconds."""
    asked = {name, *next(each.controls for each in MEASUREMENTS if each.id == name)}
    few = [each if each.id == name else each._replace(controls=()) for each in MEASUREMENTS if each.id in asked]
    found = {claim.id: claim for claim in judge(few, {0: measure(SeedMatrix(table, "s1"), {})})}
    return found[name].verdict, found[name].withdrawn_by


@pytest.mark.parametrize(
    ("name", "kept", "learned", "probes", "by"),
    [
        ("a1", {"own-answers": 0.5}, {}, {}, ["a1_null"]),
        ("a2", {"ldifs-random": 0.7}, {}, {}, ["a2_random"]),
        ("a4", {}, {BEST: 0.5}, {}, ["a4_learned_less"]),
        ("a4", {}, {"l2sp": 0.5}, {}, ["a4_learned_more"]),
        ("a4", {"ldifs-faint": 0.5}, {}, {}, ["a4_faint_less"]),
        ("a4", {"ldifs-faint": 0.1}, {}, {}, ["a4_faint_more"]),
        ("a6", {}, {}, {"random": 0.95}, ["a6_twin"]),
    ],
)
def test_a_claim_whose_control_fails_is_withdrawn(
    name: str, kept: dict[str, float], learned: dict[str, float], probes: dict[str, float], by: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(PROBES, "plain", 0.895)  # near enough to the base for a6 to be decided
    assert verdict(name, matrix()) == ("holds", [])
    for model, value in probes.items():
        monkeypatch.setitem(PROBES, model, value)
    assert verdict(name, matrix({**KEPT, **kept}, learned)) == ("withdrawn", by)


def test_what_is_claimed_of_the_shortcut_is_of_its_own_rows_and_says_when_it_was_made() -> None:
    table = matrix()
    assert not [name for name in values(table) if name.startswith("a6_s3")]
    more = table[table["method"] == "plain"].assign(sequence="s3")
    more["value"] -= 0.1
    found = values(pd.concat([table, more]))
    assert {name: found[name] for name in ("a6_s3", "a6_s3_lost", "a6_s3_shuffled", "a6", "a1")} == pytest.approx(
        {"a6_s3": 12, "a6_s3_lost": 80, "a6_s3_shuffled": 2, "a6": 2, "a1": 70}, abs=1e-6
    )
    made_after = {each.id for each in MEASUREMENTS if "after looking" in each.statement.lower()}
    assert made_after == {"a6_s3", "a6_s3_lost", "a6_s3_shuffled", "a9_ewc_tasks", "a9_replay_tasks"}
    blind = more["by"] == "probe"
    kept = more.assign(value=(more["value"] + 0.11).where(blind, 0.9))
    said, by = verdict("a6_s3", pd.concat([table, kept]))
    assert (said, by) == ("withdrawn", ["a6_s3_lost"])  # nothing was lost that it could be blind to


def planted(value: float = 1.0, forgets: float = 0.6) -> pd.DataFrame:
    """Fine-tuning on the third sequence: its own texts are learned to ``value``, those that come are not."""
    rows = matrix()
    rows = rows[(rows["method"] == "plain") & (rows["by"] == "behaviour")].assign(sequence="s3")
    own = rows[rows["capability"].isin([str(each) for each in TUNED])].copy()
    number = own["capability"].map({str(each): place for place, each in enumerate(TUNED, start=1)})
    own["value"] = np.where(
        number == own["after_task"], value, np.where(number > own["after_task"], 0.1, value - forgets)
    )
    own["capability"] += "_cte1"
    rows.loc[rows["capability"].isin([str(each) for each in TUNED]), "value"] = 0.15
    before = own[own["after_task"] == 1].assign(sequence="any", method="base", after_task=0, value=0.12)
    return pd.concat([matrix(), rows, own, before])


def test_what_a_sequence_with_a_shortcut_learns_is_asked_about_on_its_own_texts() -> None:
    seed = SeedMatrix(planted(), "s3")
    assert seed.learned("plain").value == pytest.approx(100)
    assert seed.learned_untouched("plain").value == pytest.approx(15)
    found = seed.result("plain")
    assert (found.learned, found.forgetting) == pytest.approx((1.0, 0.6))
    assert found.forward_transfer == pytest.approx(-0.02)  # over the base on the same texts
    assert SeedMatrix(planted(), "s1").learned_untouched("plain") == SeedMatrix(planted(), "s1").learned("plain")


def test_what_is_learned_better_alone_is_of_the_same_texts() -> None:
    """Tasks that were learned alone on texts as they come say nothing of those with a shortcut."""
    table = planted()
    base = table[(table["method"] == "base") & (table["by"] == "behaviour")]
    alone = [base[base["capability"] == str(each)].assign(method=f"single-{each}", after_task=1, value=0.7)
             for each in TUNED]  # fmt: skip
    table = pd.concat([table, *alone])
    assert SeedMatrix(table, "s1").result("plain").plasticity_gap == pytest.approx(0.7 - 0.9)
    assert SeedMatrix(table, "s3").result("plain").plasticity_gap is None
    own = [each.assign(method=each["method"] + "_cte1", capability=each["capability"] + "_cte1") for each in alone]
    found = SeedMatrix(pd.concat([table, *own]), "s3").result("plain").plasticity_gap
    assert found == pytest.approx(0.7 - 1.0)


def test_texts_that_are_asked_about_everything_count_once() -> None:
    rows = [RowStream(task_of(PcfgShape(), each, None), seed=0, split="test").rows(0, 64) for each in CAPABILITIES]
    texts = [each.token_ids[:, 4:-2] for each in rows]  # between the question and the answer
    assert all((each == texts[0]).all() for each in texts)
    assert not all((each.token_ids == rows[0].token_ids).all() for each in rows[1:])
    seed = SeedMatrix(matrix(), "s1")
    for found in (seed.share("plain", 4, seed.kept), seed.learned("plain")):
        assert found.rows == 1024
    assert SeedMatrix(planted(), "s3").learned("plain").rows == 4 * 1024  # of which each task has its own
    rows = [RowStream(task_of(PcfgShape(), each, 1.0), seed=0, split="test").rows(0, 64) for each in TUNED]
    texts = [{tuple(row) for row in each.token_ids[:, 4:-2].tolist()} for each in rows]
    assert not texts[0] & (texts[1] | texts[2] | texts[3])


def test_methods_that_are_told_of_earlier_tasks_are_also_compared_on_them() -> None:
    table = matrix()
    for method, left in (("ewc-permuted", 0.5), ("replay-shuffled", 0.4)):
        earlier = (table["method"] == method) & table["capability"].isin([str(each) for each in TUNED[:3]])
        table.loc[earlier & (table["after_task"] == 4), "value"] = left
    found = values(table)
    assert (found["a9_ewc_tasks"], found["a9_replay_tasks"]) == pytest.approx((30, 40))
    assert measure(SeedMatrix(table, "s1"), {})["a9_ewc_tasks"].interval is not None
    slow = matrix(learned={"ewc": 0.2, "ewc-permuted": 0.9})  # what is not learned cannot be forgotten
    assert values(slow)["a9_ewc_tasks"] == pytest.approx(-70)
    assert values(matrix())["a9_ewc_tasks"] == pytest.approx(0)  # the control: alike


def test_claims_fail_where_methods_are_exchanged() -> None:
    """The control: LDIFS and fine-tuning with each other's names turn every claim about them round."""
    other = values(matrix({**KEPT, "plain": KEPT[BEST], BEST: KEPT["plain"]}))
    assert (other["a1"], other["a2"], other["a4"]) == pytest.approx((20, -50, -30))
    assert other["a5"] < 0
    slow = values(matrix(learned={BEST: 0.5}))
    assert slow["a3"] == pytest.approx(40)
    assert (slow["a4_learned_less"], slow["a4_learned_more"]) == pytest.approx((40, -40))  # nothing to compare
    assert slow[f"{BEST}_learned"] == pytest.approx(50)


def test_verdicts_need_their_interval() -> None:
    judged = {claim.id: claim for claim in judge(MEASUREMENTS, {0: measure(SeedMatrix(matrix(), "s1"), {})})}
    said = {name: judged[name].verdict for name in ("a1", "a2", "a3", "a4", "gate_count_b", "a1_null")}
    assert {**said, "a1_null": None} == {
        "a1": "holds", "a2": "holds", "a3": "holds", "a4": "holds", "gate_count_b": "holds", "a1_null": None,
    }  # fmt: skip
    near = {
        claim.id: claim
        for claim in judge(MEASUREMENTS, {0: measure(SeedMatrix(matrix({**KEPT, "plain": 0.69}), "s1"), {})})
    }
    assert near["a1"].verdict == "undecided"  # 31 points of 1,024 texts, the bar is 30
    json.dumps([claim.statement for claim in judged.values()])


def test_a_model_that_was_not_asked_is_missed_and_no_other_taken_for_it() -> None:
    table = matrix()
    found = values(table[~((table["method"] == "plain") & (table["after_task"] == 4))])
    assert not {"a1", "a2", "plain_loss", "a6"} & set(found)
    assert found["a4"] == pytest.approx(20)


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_settings_that_training_takes(name: str) -> None:
    for number in range(4):
        settings = METHODS[name].settings(StrengthConfig(), number, [str(each) for each in TUNED[:number]])
        TrainConfig(**settings)
    if name == "slow":
        assert METHODS[name].settings(StrengthConfig(task_lr=0.5), 2, [])["lr"] == pytest.approx(0.05)
    if name == "lwf":  # of all that was there and all that was learned
        asked = METHODS[name].settings(StrengthConfig(), 2, ["count_b", "index_b"])["lwf_ask"]
        assert asked == ["count_a", "index_a", "token_at_null", "count_b", "index_b"]
    first, later = (METHODS[name].settings(StrengthConfig(), number, []) for number in (0, 1))
    needs = {"ewc", "replay_share", "olora", "der"}
    assert not needs & set(first)  # nothing is left by a base
    assert bool(needs & set(later)) == (name in ("ewc", "ewc-permuted", "replay", "replay-shuffled", "der", "olora"))


def test_the_strongest_is_chosen_that_still_learns() -> None:
    plain = 0.9
    assert choose_strength({1.0: 0.91, 10.0: CHOSEN_SHARE * plain, 100.0: 0.5}, plain) == 10.0
    assert choose_strength({1.0: 0.2, 10.0: 0.9}, plain) == 10.0
    assert choose_strength({1.0: 0.2, 10.0: 0.1}, plain) == 1.0
    assert (
        choose_strength({1.0: 0.79, 10.0: 0.81, 100.0: 0.3}, plain) == 10.0
    )  # none learns enough, and 1 least of both
