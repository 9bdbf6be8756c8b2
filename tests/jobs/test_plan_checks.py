"""What a later run of a plan would refuse is refused before the first begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.jobs import plan_checks
from ftmech_hf.jobs.plan import Plan
from ftmech_hf.jobs.plan_checks import check_plan
from ftmech_hf.jobs.study import Study, StudyConfig, StudyPlan, run_study
from ftmech_hf.jobs.training import FinetuneConfig, PretrainConfig
from ftmech_hf.tasks import PcfgConfig
from ftmech_hf.training.settings import TrainConfig
from tests.jobs.test_plan import finish

REFUSED = r"^tuned: snapshot: base keeps none of step 7, expected one of \[5\]$"


def never(**settings: Any) -> None:
    raise AssertionError("a run began")


def add_pair(plan: Plan, snapshot: int, *, seed: int = 0, end: str = "", kept: int = 5) -> None:
    """A base that keeps a step, and what is tuned from one of its steps."""
    settings = {"task": PcfgConfig(), "train": TrainConfig(seed=seed, steps=10, snapshots=[kept])}
    plan.add(f"base{end}", "pretrain", never, PretrainConfig(), settings, {}, 1)
    settings = {"task": PcfgConfig(), "train": TrainConfig(seed=seed)}
    plan.add(f"tuned{end}", "finetune", never, FinetuneConfig(snapshot=snapshot), settings, {"model": f"base{end}"}, 1)


def test_what_the_model_before_will_not_have_is_named(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_pair(plan, 5)
    check_plan(plan)
    plan = Plan(tmp_path)
    add_pair(plan, 7)
    with pytest.raises(ValueError, match=REFUSED):
        check_plan(plan)
    finish(plan, "base")
    with pytest.raises(ValueError, match=REFUSED):
        check_plan(plan)
    finish(plan, "tuned")  # it was refused nothing
    check_plan(plan)


def test_of_runs_that_differ_in_their_seed_alone_one_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    check = plan_checks._check
    monkeypatch.setattr(plan_checks, "_check", lambda place, *more: (looked.append(place), check(place, *more)))
    plan = Plan(tmp_path)
    for seed in range(3):
        add_pair(plan, 5, seed=seed, end=f"-{seed}")
    check_plan(plan)
    assert [type(each) for each in looked] == [PretrainConfig, FinetuneConfig]
    add_pair(plan, 7, seed=3, end="-3")
    with pytest.raises(ValueError, match=r"^tuned-3: snapshot: base-3 keeps none of step 7"):
        check_plan(plan)


def test_of_runs_that_differ_in_what_they_take_each_is_looked_at(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    add_pair(plan, 5, end="-0")
    add_pair(plan, 5, end="-1", kept=6)
    with pytest.raises(ValueError, match=r"^tuned-1: snapshot: base-1 keeps none of step 5, expected one of \[6\]$"):
        check_plan(plan)


def test_a_study_begins_nothing_that_would_end_so(tmp_path: Path) -> None:
    def write_results(plan: StudyPlan) -> str:
        raise AssertionError("results were written")

    study = Study(name="nothing", question="?", paper="", duration="", configs=(StudyConfig,), plan=StudyPlan,
                  write_results=write_results, print_results=print)  # fmt: skip
    plan = StudyPlan(StudyConfig(output_dir=str(tmp_path)))
    add_pair(plan, 7)
    with pytest.raises(ValueError, match=REFUSED):
        run_study(study, plan)
    assert not plan.folders["base"].exists()
