"""What a page says of how often its verdict is right; and is the stored score of today's settings and rule?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.config import config_hash, to_dict
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies import load_study
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.score import DECIDES, describe_score, outside, read_score
from ftmech_hf.studies.diagnosis.signs import VerdictRule
from ftmech_hf.studies.diagnosis.study import STUDY as DIAGNOSIS
from ftmech_hf.studies.organisms.kinds import TRUTH_OF

CONFIG = Path(__file__).parents[3] / "recipes" / "configs" / "nano" / "organisms.yaml"

ENDS = {"low": 0.1, "high": 0.9}
SCORE = {
    "pairs": 40, "disagree": ["a pair", "another pair"],
    "right": {"value": 0.8}, "undecided": {"value": 0.15, "low": 0.06, "high": 0.3}, "constant": ["hidden", 0.4],
    "by_verdict": {"gone": {"pairs": 10, "right": 9, "low": 0.52, "high": 0.99}, "undecided": {"pairs": 6, "right": 0}},
    "rule": vars(VerdictRule()),
    "scope": {"cells": [["GPT", "count"], ["GPT", "index"], ["Llama", "count"]], "parameters": [1000, 2000],
              "rows": 512, "settings": {name: getattr(CaseConfig(), name) for name in DECIDES}},
}  # fmt: skip


def diagnosed(verdict: str = "gone", rule: dict[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    """A summary of a pair like those that were scored, but for what is said."""
    like = {
        "architecture": "Llama", "parameters": 1000, "capability": "count_b", "rows": 512, "reference": "runs/never",
        "other_tokens": None, "prompt_kind": None, "left_out": ["weights"],
        "settings": {name: getattr(CaseConfig(), name) for name in DECIDES},
    }  # fmt: skip
    return {"verdict": verdict, "rule": rule or vars(VerdictRule()), "facts": {**like, **facts}}


def test_the_rate_is_that_of_the_verdicts_own_kind_with_its_interval() -> None:
    text = describe_score(diagnosed(), SCORE)
    assert text.startswith("Verdicts of this kind were right in 9 of 10 organisms (90%; 95 % interval 52 to 99%). ")
    assert "Of all 40 the verdict was right in 80%, wrong in 5% and undecided in 15%; " in text
    assert "always saying the most frequent truth would be right in 40%" in text
    assert "; 2 more do not count, since" in text
    assert "outside" not in text
    assert describe_score(diagnosed("undecided"), SCORE).startswith(
        "So were 6 of 40 organisms (15%; 95 % interval 6 to 30%)"
    )
    assert describe_score(diagnosed("weakened"), SCORE).startswith("Verdicts of this kind were given to none of 40")
    every: dict[str, Any] = {
        "by_verdict": {"gone": {"pairs": 16, "right": 10, **ENDS}, "undecided": {"pairs": 9, "right": 0}}
    }
    more = describe_score(diagnosed(), {**SCORE, "every": every})
    assert "wrong in 5% and undecided in 15%" in more
    told = describe_score(diagnosed(), {**SCORE, "every": {**every, "wrong": {"value": 0.08}}})
    assert "wrong in 5% (8% with those) and undecided in 15%" in told
    assert "(90%; 95 % interval 52 to 99%), and in 10 of 16 counting those too whose two labels disagree (62%" in more
    every["by_verdict"] |= {"weakened": {"pairs": 7, "right": 2, **ENDS}, "nothing to lose": {"pairs": 3, "right": 0}}
    weakened, nothing = (describe_score(diagnosed(each), {**SCORE, "every": every}) for each in every["by_verdict"]
                         if each in ("weakened", "nothing to lose"))  # fmt: skip
    assert "so that their rate is not known; they were right in 2 of 7 counting those too whose two" in weakened
    assert nothing == describe_score(diagnosed("nothing to lose"), SCORE)
    assert describe_score(diagnosed("undecided"), {**SCORE, "every": every}) == describe_score(
        diagnosed("undecided"), SCORE
    )
    whole = {**SCORE, "right": {"value": 0.85}}
    assert "wrong in 0% and" in describe_score(diagnosed(), whole)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"architecture": "Mamba"}, "its architecture is Mamba, and scored were GPT, Llama"),
        ({"parameters": 2001}, "it has 2,001 parameters, and scored were models of 1,000 to 2,000"),
        ({"parameters": 999}, "it has 999 parameters, and scored were models of 1,000 to 2,000"),
        ({"capability": "find_b"}, "it is asked about find_b, and scored were questions of the tasks count, index"),
        ({"capability": "count"}, "it is asked about count, and scored were questions of the tasks count, index"),
        ({"capability": "index_b"}, "no Llama was scored on questions of the task index"),
        ({"rows": 511}, "it is asked 511 questions, and scored was with 512"),
        ({"reference": "random init"}, "it has no control that never had the capability"),
        ({"other_tokens": "a question"}, "the two models read the questions as different tokens"),
        ({"prompt_kind": "prefix"}, "its change is learned tokens"),
        ({"left_out": ["weights", "probing"]}, "left out was probing"),
        ({"rule": {**vars(VerdictRule()), "speed": 2.0}}, "its rule has other thresholds"),
    ],
)
def test_what_was_not_among_the_scored_pairs_is_said(facts: dict[str, Any], reason: str) -> None:
    assert outside(diagnosed(), SCORE) == []
    assert outside(diagnosed(rows=1000, parameters=2000), SCORE) == []
    assert outside(diagnosed(architecture="GPT", capability="index_b"), SCORE) == []
    summary = diagnosed(**facts)
    assert outside(summary, SCORE) == [reason]
    assert describe_score(summary, SCORE).endswith(
        f"This pair is outside of what was scored, and the rates may not hold: {reason}."
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"most_reverse_steps": 512}, "most steps of reverse fine-tuning: 512 here, 256 in what was scored"),
        ({"reverse_lr": 1e-2}, "learning rate of reverse fine-tuning: 0.01 here, 0.0001 in what was scored"),
        ({"fit_rows": 50}, "rows that probes are fitted on: 50 here, 1000 in what was scored"),
        ({"repeats": 2}, "repetitions of reverse fine-tuning: 2 here, 3 in what was scored"),
        ({"prune_sizes": [0, 1]}, "numbers of pruned rows: 0, 1 here, 0, 1, 2, 3, 5, 8, 12, 15 in what was scored"),
        ({"fit_rows": 5000, "max_layers": 9, "repeats": 7}, None),  # more is surer
    ],
)
def test_a_diagnosis_by_other_settings_is_outside(changes: dict[str, Any], reason: str | None) -> None:
    like = {name: getattr(CaseConfig(), name) for name in DECIDES}
    assert outside(diagnosed(settings={**like, **changes}), SCORE) == ([reason] if reason else [])


def test_a_card_says_how_far_a_verdict_is_to_be_believed(tmp_path: Path) -> None:
    """With the stored score; nothing where a version did not say what the rate depends on."""
    (job,) = DIAGNOSIS.publications
    for summary, said in ((diagnosed(), describe_score(diagnosed(), read_score())), ({"verdict": "gone"}, "")):
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        assert job.trust(FinishedRun(tmp_path)) == said


def test_the_stored_score_is_of_the_study_as_it_is_set_today() -> None:
    study, stored = load_study("organisms"), read_score()
    plan = study.read_plan(["--config", str(CONFIG)])  # type: ignore[attr-defined]
    assert stored["hash"] == config_hash(to_dict(plan.config, plan.case, plan.shape))
    assert stored["seeds"] == plan.config.seeds
    assert stored["scope"]["settings"] == {name: getattr(plan.case, name) for name in DECIDES}
    assert stored["rule"] == vars(VerdictRule())
    assert stored["versions"].startswith("ftmech_hf ")
    tested = {(pair.world.preset, pair.world.operator) for pair in plan.pairs if pair.world.split == "test"}
    assert len(stored["scope"]["cells"]) == len(tested)
    assert {task for _, task in stored["scope"]["cells"]} == {operator for _, operator in tested}


def test_the_stored_numbers_are_those_of_one_table() -> None:
    stored = read_score()
    counts, verdicts = stored["confusion"], stored["by_verdict"]
    assert sum(sum(row.values()) for row in counts.values()) == stored["pairs"]
    assert sum(each["pairs"] for each in verdicts.values()) == stored["pairs"]
    right = sum(row[truth] for truth, row in counts.items())
    assert stored["right"]["value"] == pytest.approx(right / stored["pairs"])
    assert stored["right"]["low"] < stored["right"]["value"] <= stored["right"]["high"]
    assert sum(each["right"] for each in verdicts.values()) == right
    for truth, row in counts.items():
        stated = [each for verdict, each in verdicts.items() if TRUTH_OF.get(verdict) == truth]
        assert sum(each["right"] for each in stated) == row[truth]
        assert stored["truths"][truth]["right"]["value"] == pytest.approx(row[truth] / sum(row.values()))
    assert stored["constant"][1] == max(sum(row.values()) for row in counts.values()) / stored["pairs"]
