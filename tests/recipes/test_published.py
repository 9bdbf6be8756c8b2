"""A published table is of the settings that its command has today, and says so by their hash."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.jobs.study import Study
from recipes.real_examples import EXAMPLES
from recipes.results import STEPS, Step
from recipes.update_readme import BLOCKS
from tests.recipes.commands import ROOT, block_of

NO_STUDY = {"instruments", "architectures", "real", *EXAMPLES}
"""Of a job, of no settings at all, and of facts that are not there without an extra."""


def asked_study(step: Step, monkeypatch: pytest.MonkeyPatch) -> tuple[Study[Any, Any], list[str]]:
    """The study that a step's command runs, and its words; nothing is run."""
    recipe, *words = shlex.split(step.command)
    asked: list[Study[Any, Any]] = []
    module = importlib.import_module(f"recipes.{recipe.removesuffix('.py')}")
    monkeypatch.setattr(module, "run_command", lambda study, argv, description: asked.append(study))
    module.main(words)
    return asked[0], words


def published_hashes(source: str) -> dict[str, list[str]]:
    """Name of each block that is made of a source -> all hashes of settings that stand in it."""
    found = {}
    for name, block in BLOCKS.items():
        if block.source == source:
            found[name] = re.findall(r"`([0-9a-f]{12})`", block_of(name))
    return found


STUDIES = [step for step in STEPS if step.source not in NO_STUDY and "benchmark" not in step.source]


@pytest.mark.parametrize("step", STUDIES, ids=lambda step: step.source)
def test_a_published_table_is_of_todays_settings(step: Step, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    study, words = asked_study(step, monkeypatch)
    plan = study.read_plan([*words, "--output_dir", str(tmp_path)])
    published = published_hashes(step.source)
    assert all(found == [plan.hash] for found in published.values()), f"{plan.hash}, and published is {published}"
