"""A published table is of the settings that its command has today, says so by their hash, and all are of one code."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.diagnosis.score import SCORE_FILE
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


def published_texts() -> dict[str, str]:
    """Every place that says which code made its numbers: tables, cards and the rates on pages of diagnoses."""
    blocks = {name: block_of(name) for name in BLOCKS}
    files = [*(ROOT / "model_cards").rglob("README.md"), SCORE_FILE]
    return blocks | {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def codes_said(text: str) -> list[str]:
    """The hashes of the code that a text says it is of; ``several`` where runs of other versions are in it."""
    return re.findall(r"code ([0-9a-f]{16})", text) + ["several"] * len(re.findall(r"other versions? of it", text))


def test_all_that_is_published_is_of_one_code() -> None:
    by_code: dict[str, list[str]] = {}
    for name, text in published_texts().items():
        for code in codes_said(text):
            by_code.setdefault(code, []).append(name)
    assert len(by_code) == 1, by_code
    assert len(next(iter(by_code.values()))) > 60


def test_another_code_is_seen() -> None:
    one, other = (
        "ftmech_hf 1.0.0 (code 0123456789abcdef), torch",
        "(code fedcba9876543210, with runs of 2 other versions",
    )
    assert codes_said(one) == ["0123456789abcdef"]
    assert codes_said(f"{one}; {other} of it)") == ["0123456789abcdef", "fedcba9876543210", "several"]
