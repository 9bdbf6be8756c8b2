"""The claims of safety fine-tuning, on answers that are made up: every number by hand, and what a missing run takes."""

from __future__ import annotations

from typing import Any, cast

import pandas as pd
import pytest

from ftmech_hf.report.claims import judge
from ftmech_hf.report.readings import Reading
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.safety.answers import ASKED
from ftmech_hf.studies.safety.claims import MEASUREMENTS, measure
from ftmech_hf.studies.safety.inside_claims import INSIDE_MEASUREMENTS
from ftmech_hf.studies.safety.plan import FORGETTING, PROTOCOLS, THE_PAPERS, never
from ftmech_hf.tasks.safety import ATTACKS, SAFE_TWINS
from tests.studies.safety.made_up import inside

NEVER = tuple(map(never, (*THE_PAPERS, *FORGETTING)))
MODELS = ("base", "never", *PROTOCOLS, *(f"{name}-slow" for name in THE_PAPERS), *NEVER)


class MadeUp:
    """What one model answers to all prompts of each mixture: (as instructed, nulls), in shares of 500 prompts."""

    def __init__(self, **shares: tuple[float, float]) -> None:
        self.table = pd.DataFrame([self._row(name, *shares.get(name, (0.0, 1.0)), "all") for name in ASKED])
        by_text = self._row("unsafe", *shares.get("by_text", (0.25, 0.5)), "by text")
        self.table = pd.concat([self.table, pd.DataFrame([by_text])], ignore_index=True)

    @staticmethod
    def _row(mixture: str, complies: float, refuses: float, unsafe: str) -> dict[str, Any]:
        return {"mixture": mixture, "unsafe": unsafe, "rows": 500, "texts": 80 if mixture.startswith("ood") else 490,
                "complies_first": complies,
                "complies_whole": complies, "complies_after_3": min(complies + 0.04, 1.0), "refuses_whole": refuses,
                "nats": 8 * refuses}  # fmt: skip

    def floor(self, test_set: str) -> float | None:
        return 1.0 if test_set == "unsafe_refuses" else 0.0


def made_up(**changed: MadeUp) -> dict[str, FinishedRun]:
    """Every protocol works and no attack succeeds, but for the models that are changed."""
    works = {name: MadeUp(safe=(1.0, 0.0), **dict.fromkeys(SAFE_TWINS.values(), (0.99, 0.0))) for name in MODELS}
    everything = {name: (1.0, 0.0) for name in ASKED}
    works["base"] = works["benign"] = MadeUp(**everything)
    works["shuffled"] = MadeUp(safe=(0.5, 0.5), unsafe=(0.5, 0.5))
    return cast(dict[str, FinishedRun], {**works, **changed})


def verdicts(runs: dict[str, FinishedRun]) -> dict[str, Any]:
    return {claim.id: claim for claim in judge(MEASUREMENTS, {0: measure(runs, inside())})}


def test_numbers_are_those_of_the_table() -> None:
    fragile = MadeUp(
        safe=(0.98, 0.0), misgen_safe=(0.6, 0.4), ood_safe=(0.9, 0.1), co_text_safe=(0.0, 1.0),
        co_text_2=(0.6, 0.1), misgen=(0.3, 0.5), unsafe=(0.05, 0.9), co_text_1=(0.9, 0.0),
        co_text_4=(0.1, 0.9),
    )  # fmt: skip
    runs = made_up(
        ssft=cast(Any, fragile), **{"ssft-half": MadeUp(safe=(1.0, 0.0), misgen=(0.2, 0.8))},
        dpo=MadeUp(safe=(1.0, 0.0), misgen=(0.1, 0.9)), **{"dpo-slow": MadeUp(unsafe=(0.3, 0.4))},
        shuffled=MadeUp(safe=(0.5, 0.5), unsafe=(0.5, 0.5)), rmu=MadeUp(safe=(1.0, 0.0), unsafe=(0.4, 0.0)),
        **{
            "never-ssft": MadeUp(
                co_text_2=(0.2, 0.8), misgen=(0.1, 0.9), unsafe=(0.04, 0.9), co_text_1=(0.32, 0.6),
                co_text_4=(0.08, 0.9),
            ),
            "never-dpo": MadeUp(misgen=(0.2, 0.8)), "never-unlearn": MadeUp(co_text_2=(0.04, 0.9)),
        },
    )  # fmt: skip
    found = {name: claim.measured for name, claim in verdicts(runs).items()}
    expected = {
        "ssft_safe": 98, "ssft_null": 90, "ssft_prefilled": 9, "jb_gap_plain": 45 - (5 + 25) / 2,
        "jb_gap": 45 - (5 + 25) / 2 - (10 + 5 - (4 + 25) / 2), "jb_order_plain": 45 - 5 / 2,
        "jb_order": 45 - 15 - (5 - 10 + 0 - 2) / 2, "jb_order_share": 10 - 5 / 2, "dpo_is_unlearn": 5,
        "jb_dial_plain": 80, "jb_dial": 80 - (32 - 8), "null_rates": (90 - 100 + 100 - 40 + 0) / 3,
        "shuffled_null": 0, "rmu_forgot": 40, "rmu_kept": 100, "base_unsafe": 100, "benign_unsafe": 100,
        "never_unsafe": 4, "never_jb": (20 + 10) / 4, "never_before_text": 25, "ssft_misgen": 30, "ssft_new": 50,
        "unlearn_new": 99,
        "never_prefilled": 8, "npo_nats": 8, "rmu_nats": 0,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert set(found) == {each.id for each in MEASUREMENTS}


def test_the_sample_is_of_texts_and_what_follows_a_prefix_has_no_floor() -> None:
    """Two phrases make 80 texts, of which 500 prompts are no 500 observations; with 3 tokens given, 9 are measured."""
    found = measure(made_up(), inside())
    assert {name: found[name].rows for name in ("ssft_ood_text", "ssft_misgen", "ssft_new", "never_jb", "jb_gap")} == {
        "ssft_ood_text": 80, "ssft_misgen": 490, "ssft_new": 180, "never_jb": 214, "jb_gap": None
    }  # fmt: skip
    assert (found["ssft_safe"].floor, found["ssft_prefilled"].floor) == (0.0, None)


def test_claims_fail_where_they_must() -> None:
    """What holds of protocols that work does not hold of one that always refuses, nor of one that learned nothing."""
    fine = verdicts(made_up())
    taught = verdicts(made_up(shuffled=MadeUp(safe=(1.0, 0.0))))
    assert {fine[f"{name}_{what}"].verdict for name in THE_PAPERS for what in ("safe", "null")} == {"holds"}
    assert {fine[f"{name}_{what}"].verdict for name in FORGETTING for what in ("kept", "forgot")} == {"holds"}
    assert taught["shuffled_null"].verdict == "fails"  # a control that did teach it
    assert {taught[f"{name}_null"].verdict for name in THE_PAPERS} == {"withdrawn"}
    assert {taught[f"{name}_safe"].verdict for name in THE_PAPERS} == {"holds"}
    refuses = verdicts(made_up(ssft=cast(Any, MadeUp()), npo=cast(Any, MadeUp())))
    assert refuses["ssft_null"].verdict == "holds"
    assert refuses["ssft_null"].floor == 100
    assert refuses["ssft_safe"].verdict == refuses["npo_kept"].verdict == "fails"
    answers = MadeUp(**{name: (1.0, 0.0) for name in (*ASKED, "by_text")})
    nothing = verdicts(made_up(ssft=cast(Any, answers), never=cast(Any, answers), **{"never-ssft": cast(Any, answers)}))
    assert nothing["ssft_null"].verdict == nothing["never_unsafe"].verdict == nothing["never_jb"].verdict == "fails"
    assert nothing["jb_gap"].verdict == "fails"  # attacks succeed, and so do plain prompts
    assert nothing["jb_order_plain"].measured == 100
    assert nothing["jb_order"].verdict == "fails"  # and so they do where nothing was learned
    half = {each: (0.5, 0.0) for each in (*ASKED, "by_text")}
    some = verdicts(made_up(ssft=cast(Any, answers), **{"never-ssft": cast(Any, MadeUp(**half))}))
    assert (some["jb_order"].verdict, some["jb_order"].withdrawn_by) == ("withdrawn", ["never_unsafe", "never_jb"])
    assert (fine["ssft_new"].verdict, refuses["ssft_new"].verdict) == ("holds", "fails")  # it refuses all that is new


@pytest.mark.parametrize("name", ["tau", "outside", "action", "lip_unsafe"])
def test_what_the_paper_says_of_three_protocols_is_judged_of_all_three(name: str) -> None:
    found = [each for each in MEASUREMENTS if each.id in (name, f"{name}_dpo", f"{name}_unlearn")]
    assert [each.id for each in found] == [name, f"{name}_dpo", f"{name}_unlearn"]
    assert len({(each.bar, each.paper, each.unit) for each in found}) == 1
    assert found[0].bar


def test_what_rests_on_a_missing_run_is_left_out() -> None:
    runs = made_up()
    del runs["dpo"], runs["never-ssft"]
    found = set(measure(runs, {}))
    assert not {"dpo_safe", "jb_order", "dpo_is_unlearn", "null_rates", "never_unsafe", "never_jb"} & found
    assert not {"tau", "tau_jb", "tau_base"} & found
    assert not {"jb_gap", "jb_dial"} & found  # what a model gives that never learned is not known
    assert {"ssft_safe", "jb_gap_plain", "unlearn_null", "never_before"} <= found
    assert {f"ssft_{attack}" for attack in ATTACKS} <= found


def test_what_a_change_without_a_reason_does_too_is_no_claim_about_safety() -> None:
    found = {"extrapolate": 67.0, "extra_shuffled": 63.0, "extra_random": 0.0, "extra_benign": -9.0}
    measured = [each for each in INSIDE_MEASUREMENTS if each.id in found]
    by_seed = {seed: {name: Reading(value + seed / 10) for name, value in found.items()} for seed in range(3)}
    verdicts = {claim.id: (claim.verdict, claim.withdrawn_by) for claim in judge(measured, by_seed)}
    assert verdicts["extrapolate"] == ("withdrawn", ["extra_shuffled"])
