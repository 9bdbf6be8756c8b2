"""A run's folder has the hash of what it computes in its name: what was computed before is found again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ftmech_hf.jobs.plan_checks import check_plan
from ftmech_hf.jobs.study import Study
from ftmech_hf.studies import load_study

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"

NAMES = {
    ("reproduce", "nano/reproduce"): (42, "attention-seed0-9d4448d86b1d", "203b653cc46ed0ab"),
    ("compare_organisms", "nano/compare_organisms"): (153, "compare-wrapper-seed6-224addec09ed", "c432dda4b89c9955"),
    ("tracr", "nano/tracr"): (104, "dissect-counter-0.0001-0-seed0-69a89956cd37", "27f083efcb1cb476"),
    ("tinystories", "nano/stories"): (50, "base-seed0-6b46d4859360", "8bdfff89c6236ad7"),
    ("safety", "nano/safety"): (324, "base-seed0-39131fd87c14", "80e61805584f8be5"),
    ("continual", "nano/continual"): (537, "base-seed0-27839cbd868a", "f3f6b9310708e33b"),
    ("retrieval", "nano/retrieval"): (188, "base-seed0-35bf763b75da", "b03648392aeb2444"),
    ("sweep", "nano/sweep_lora"): (66, "finetune-1-seed0-94eee02ba63e", "73c1937e20598dd0"),
    ("sweep", "paper/sweep_jailbreak"): (15, "finetune-high-medium-seed0-a02d71585fae", "e0a8feb2ed0e5857"),
    ("organisms", "nano/organisms"): (918, "shortcut-seed0-b1bdda60327a", "872cfc13b03dabfd"),
}
"""(study, settings) -> how many runs, one of them, and the sha256 of the names of all, as they were first made."""


@pytest.mark.parametrize(("study", "config"), NAMES, ids=lambda each: each.replace("/", "-"))
def test_runs_keep_their_names(study: str, config: str, tmp_path: Path) -> None:
    declared = load_study(study)
    assert isinstance(declared, Study)
    places = ["--output_dir", str(tmp_path), "--runs_dir", str(tmp_path)]
    plan = declared.read_plan(["--config", str(CONFIGS / f"{config}.yaml"), *places])
    names = sorted({folder.name for folder in plan.folders.values()})
    number, one, digest = NAMES[study, config]
    assert len(names) == number
    assert one in names
    assert hashlib.sha256(" ".join(names).encode()).hexdigest()[:16] == digest
    check_plan(plan)  # and none of them will be refused when those before it are made
