"""The study of stories and the judge as a user runs them, small."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ftmech_hf.models.memory import say_bytes, training_bytes, weight_bytes
from ftmech_hf.models.presets import find_preset, model_config
from ftmech_hf.report.claims import Claim
from ftmech_hf.report.paper_tables import read_stories_table
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tinystories.plan import StoriesPlan
from ftmech_hf.tasks.stories import StoriesConfig
from recipes import fit_judge, stories
from recipes.readme.studies import stories_block, stories_claims_block

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
TINY = [
    "--base_steps", "3", "--base_batch_size", "2", "--delete_steps", "2", "--reverse_steps", "3", "--num_points", "2",
    "--tune_batch_size", "2", "--generations", "6", "--max_new_tokens", "8", "--choices", "4", "--probe_stories", "40",
    "--prune_stories", "4", "--eval_rows", "2", "--vocab_size", "800", "--row_tokens", "64",
    "--protocols", "F", "--lora", "false", "--workers", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("stories")
    argv = ["--config", str(CONFIGS / "nano" / "stories.yaml"), "--output_dir", str(folder / "out")]
    argv += ["--runs_dir", str(folder / "runs"), *TINY]
    stories.main(argv)
    return folder, argv


def test_the_study_ends_in_a_report(study: tuple[Path, list[str]]) -> None:
    out = study[0] / "out"
    points = pd.read_csv(out / "points.csv")
    assert set(points["model"]) == {"base", "F (large)", "F (small)", "control"}
    assert set(points["kind"]) == {"asked", "not asked"}
    assert set(points["measure"]) == {"stories", "choice"}
    assert sorted(points[points["model"] == "control"]["step"].unique()) == [0, 1, 3]
    cells = pd.read_csv(out / "cells.csv")
    paper = cells.set_index(["model", "paper_step"])["paper"]
    assert paper["F (large)", 30] == 81
    assert paper["control", 3000] == 81
    assert cells[cells["model"] == "base"]["paper"].isna().all()
    claims = {claim["id"]: Claim(**claim) for claim in json.loads((out / "claims.json").read_text())}
    assert not {"randomised", "pruned_lost", "loss_ratio_lost"} & set(claims)  # F+R is no part of this study
    assert {"base_asked", "early", "probe_gap", "probe_random", "pruned", "pruned_control", "loss_ratio"} <= set(claims)
    stories = points[(points["measure"] == "stories") & (points["step"] == 0)].set_index(["model", "kind"])["value"]
    assert claims["base_asked"].floor == pytest.approx(100 * stories["base", "not asked"])
    assert claims["base_not_asked"].floor == 0  # what the exact judge gets wrong
    assert claims["early"].floor is None
    unasked = cells[cells["step"] == 0].set_index("model")["unasked"]
    assert unasked["F (large)"] == pytest.approx(100 * stories["F (large)", "not asked"])
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 5
    assert "Stories side by side" in page
    assert page.count(", unasked ") == len(cells)
    assert "one in a story that has none" in " ".join(page.replace("\nin a story", " in a story").split())
    assert "Features: Twist" in page


def test_its_runs_are_found_again(study: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, argv = study
    made = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    stories.main(argv)
    assert "to make" not in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()} == made


def test_its_tables_for_the_readme_are_those_of_its_files(study: tuple[Path, list[str]]) -> None:
    out = study[0] / "out"
    table = stories_block(out)
    assert "| F (large) | 44 → " in table
    assert "step 3 (3,000)" in table
    assert "6 stories a cell" in table
    assert table.count(", unasked ") == len(pd.read_csv(out / "cells.csv"))
    assert "| Base: writes a twist when it is asked to |" in stories_claims_block(out)


def test_the_papers_table_is_whole() -> None:
    table = read_stories_table()
    assert len(table) == 7 * 4
    assert (table["paper"] * 16 / 100 - (table["paper"] * 16 / 100).round()).abs().max() < 0.15  # sixteenths, rounded
    assert set(table["model"]) == {
        "control", *(f"{protocol} ({rate})" for protocol in ("F", "F+R", "F+MM") for rate in ("large", "small"))
    }  # fmt: skip


def test_a_judge_of_words_says_what_it_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "fit_judge.yaml"), "--output_dir", str(tmp_path / "judge")]
    fit_judge.main([*argv, "--fit_stories", "300", "--test_stories", "200"])
    printed = capsys.readouterr().out
    assert "Dialogue by rule: 100.0%" in printed
    assert "at chance: not judged" in printed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--delete_lrs", "1e-4", "1e-3"], "delete_lrs: [0.0001, 0.001], expected two numbers above 0, the larger"),
        (["--reverse_lr", "4e-4"], "reverse_lr: 0.0004, expected above 0 and at most deletion's 0.0003"),
        (["--lora_reverse_lr", "1e-2"], "lora_reverse_lr: 0.01, expected above 0 and at most deletion's 0.001"),
        (["--files", "nowhere.txt"], "answer_weight: 16.0, but nobody knows which words of stories from files"),
        (["--answer_weight", "0"], "answer_weight: 0.0, expected a number above 0"),
        (["--protocols", "G"], "protocols: ['G'], expected some of F, F+R, F+MM"),
        (["--claimed", "0"], "claimed: 0.0, expected more than 0 and at most 1"),
        (["--seeds", "1", "1"], "seeds: [1, 1], expected at least one"),
        (["--judge", "nowhere"], "judge: nowhere holds no judge.json"),
        (["--renamed", "Twist"], "rename: Twist is the feature that is left out"),
    ],
)
def test_impossible_settings_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stories.main(argv)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("scale", ["nano", "paper"])
def test_the_way_back_is_at_a_smaller_rate_as_in_the_paper(scale: str, tmp_path: Path) -> None:
    def read(name: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((CONFIGS / scale / f"{name}.yaml").read_text())
        return found

    assert read("stories_reverse_finetune")["lr"] < read("stories_finetune")["lr"]
    settings = read("stories")
    named = {each.name for each in dataclasses.fields(StoriesStudyConfig)} & set(settings)
    config = StoriesStudyConfig(**{name: settings[name] for name in named} | {"runs_dir": str(tmp_path)})
    large, small = config.delete_lrs
    # In the paper's code of stories the rate back is the small one of deletion; in its other tasks it is below both.
    assert config.reverse_lr == small if scale == "paper" else config.reverse_lr < small
    assert small < large
    assert config.answer_weight == (1 if scale == "paper" else 16)
    assert config.lora_reverse_lr < config.lora_lr
    plan = StoriesPlan(config, StoriesConfig())
    rates = {cell.name: cell.kwargs["train"].lr for cell in plan.cells() if "train" in cell.kwargs}
    for model in plan.models:
        lora = model.rate == "lora"
        if model.rate:
            assert rates[model.run] == (config.lora_lr if lora else config.lr(model.rate))
        if model.reverse:
            assert rates[model.reverse] == (config.lora_reverse_lr if lora else config.reverse_lr)
    assert sum(bool(model.reverse) for model in plan.models) == 8


def test_a_dry_run_says_what_the_paper_s_size_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "stories.yaml"), "--output_dir", str(tmp_path), *TINY]
    argv += ["--runs_dir", str(tmp_path / "runs"), "--max_steps", "1"]
    stories.main(argv)
    printed = capsys.readouterr().out
    assert "7 of them to train: 38 rows" in printed
    assert [path.name for path in (tmp_path / "runs").iterdir() if "dry-run" not in path.name] == []


def test_memory_is_that_of_the_rows_which_go_through_the_model_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "stories.yaml"), "--output_dir", str(tmp_path), *TINY]
    argv += ["--base_batch_size", "64", "--tune_batch_size", "64", "--gradient_accumulation_steps", "8"]
    stories.main([*argv, "--runs_dir", str(tmp_path / "runs"), "--max_steps", "0"])
    printed = capsys.readouterr().out
    words = int(printed.partition(" words: ")[0].rpartition(" ")[2])
    config = model_config(find_preset("nano-stories"), words)
    taken = weight_bytes(config) + training_bytes(config, 64 // 8, 64)
    assert "3 steps of 64 rows of 64 tokens" in printed
    said = {line.rpartition(", about ")[2] for line in printed.splitlines() if " steps of " in line}
    assert said == {say_bytes(taken)}
