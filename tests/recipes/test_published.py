"""What is published is of one code, and of the settings that its command has today, and says so by their hashes."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ftmech_hf.config import parse_config
from ftmech_hf.jobs.study import Study
from ftmech_hf.tasks import PcfgConfig
from recipes import benchmark
from recipes.real_examples import EXAMPLES
from recipes.results import STEPS, Step
from recipes.update_readme import BLOCKS
from tests.recipes.commands import ROOT, block_of

BEHIND = {
    "organisms", "verdict_score.json", "written", "accuracy", "analysis", "explorer", "sweep",
}  # fmt: skip
"""What is of runs that take hours and of an earlier code, which it says; each is taken out when it is made again."""

NO_CODE = {"interop"}
"""Of other libraries: a check passed with their version or did not."""

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


BENCHMARKS = [step for step in STEPS if "benchmark" in step.source and not step.source.startswith("explorer")]
"""That of the explorer opens a pair of real models, too, whose bytes are in its hash and are not here."""


@pytest.mark.parametrize("step", BENCHMARKS, ids=lambda step: step.source)
def test_a_published_benchmark_is_of_todays_settings(step: Step) -> None:
    _, name, *words = shlex.split(step.command)
    config, task = parse_config(benchmark.BENCHMARKS[name][0], PcfgConfig, argv=words)
    hashed = benchmark.hash_of(name, config, task)
    published = published_hashes(step.source)
    assert published == {block: [] if block in BEHIND else [hashed] for block in published}


SAYS = re.compile(r"ftmech_hf \d+\.\d+\.\d+(?: \(code ([0-9a-f]{16})(, with runs of \d+ other versions? of it)?)?")
"""A version, and behind it the code, and whether it is that of all runs."""


def codes_in(text: str) -> set[str]:
    """Which codes stand behind versions; empty ones and those that are not of all runs are said as such."""
    return {code + more if code else "none" for code, more in SAYS.findall(text)}


def published_codes() -> dict[str, set[str]]:
    """Block, card, page or file -> the codes that it says it was made by."""
    found = {name: codes_in(block_of(name)) for name in BLOCKS if name not in NO_CODE}
    for card in sorted((ROOT / "model_cards").iterdir()):
        for file in sorted([*card.glob("README.md"), *card.glob("*.html")] if card.is_dir() else []):
            found[file.relative_to(ROOT / "model_cards").as_posix()] = codes_in(file.read_text(encoding="utf-8"))
    score = ROOT / "ftmech_hf/studies/diagnosis/verdict_score.json"
    found[score.name] = codes_in(score.read_text(encoding="utf-8"))
    return {name: codes for name, codes in found.items() if codes}


def test_all_that_is_published_is_of_one_code() -> None:
    """Of a table that is made again by other code all others are, too; what is behind is named, and nothing else."""
    found = published_codes()
    (code,) = found["results"]
    assert re.fullmatch(r"[0-9a-f]{16}", code)
    others = {name for name, codes in found.items() if codes != {code}}
    assert others == BEHIND, f"all but these are of {code}"


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("ftmech_hf 1.0.0 (code 0123456789abcdef), torch 2.13.0", {"0123456789abcdef"}),
        ("ftmech_hf 0.1.0, torch 2.13.0", {"none"}),
        ("ftmech_hf 1.0.0 (code 0123456789abcdef, with runs of 1 other version of it)",
         {"0123456789abcdef, with runs of 1 other version of it"}),
        ("ftmech_hf 1.0.0 (code 0123456789abcdef) and ftmech_hf 1.0.0 (code 1123456789abcdef)",
         {"0123456789abcdef", "1123456789abcdef"}),
        ("pip install ftmech_hf", set()),
    ],
)  # fmt: skip
def test_codes_are_read_from_what_is_published(text: str, codes: set[str]) -> None:
    assert codes_in(text) == codes
