"""The plan of the study: what never learned is tuned as the other is, and no two seeds share a world."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmech_hf.studies.safety.plan import (
    FORGETTING,
    NEVER_THE_PAPERS,
    PROTOCOLS,
    THE_PAPERS,
    SafetyPlan,
    SafetyStudyConfig,
    never,
)
from ftmech_hf.training.objectives import Misdirection


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> SafetyPlan:
    folder = tmp_path_factory.mktemp("safety")
    return SafetyPlan(SafetyStudyConfig(seeds=[0, 3], output_dir=str(folder), runs_dir=str(folder / "runs")))


def name_of(folder: str) -> str:
    """What a run of a plan is called, without its seed."""
    return Path(folder).name.rpartition("-seed")[0]


def test_the_control_of_a_diagnosis_was_tuned_by_the_same_protocol(plan: SafetyPlan) -> None:
    for protocol in (*THE_PAPERS, *FORGETTING):
        called = plan.called_with(plan.diagnoses[0][protocol])["config"]
        assert [name_of(each) for each in (called.base, called.finetuned, called.control)] == [
            "base", protocol, f"never-{protocol}"
        ]  # fmt: skip
        tuned, control = (plan.called_with(plan.models[0][name]) for name in (protocol, never(protocol)))
        for same in ("task", "train", "objective"):
            assert tuned[same] == control[same], "rows, steps and objective are those of the protocol"
        assert [name_of(each["config"].model) for each in (tuned, control)] == ["base", "never"]


def test_tuning_again_and_soft_tokens_have_the_control_of_each_protocol(plan: SafetyPlan) -> None:
    for analysis in ("relearning", "soft_tokens"):
        runs = plan.analyses[analysis][3]
        assert set(NEVER_THE_PAPERS) < set(runs)
        for name in NEVER_THE_PAPERS:
            assert name_of(plan.called_with(runs[name])["config"].model) == name


def test_each_seed_has_operators_and_a_direction_of_its_own(plan: SafetyPlan) -> None:
    """Seeds that shared them would be repetitions of one world: their interval would say nothing of others."""
    for seed in (0, 3):
        runs = [*plan.models[seed].values(), *plan.answers[seed].values()]
        runs += [run for each in plan.analyses.values() for run in each[seed].values()]
        assert {plan.called_with(run)["task"].map_seed for run in runs} == {seed}
        rmu = plan.called_with(plan.models[seed]["rmu"])["objective"]
        assert isinstance(rmu, Misdirection)
        assert (rmu.direction_seed, rmu.steering) == (seed, PROTOCOLS["rmu"].settings.steering)  # type: ignore[attr-defined]
    questions = [plan.called_with(plan.diagnoses[seed]["ssft"])["config"].dataset for seed in (0, 3)]
    assert questions[0] != questions[1]
