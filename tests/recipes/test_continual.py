"""The continual study as a user runs it, small."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.continual.methods import CHOSEN_SHARE, GRIDS, choose_strength
from recipes import continual, continual_stories
from recipes.readme import continual as continual_blocks
from recipes.update_readme import marks

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
TINY = [
    "--seeds", "0", "--n_layer", "1", "--n_embd", "16", "--base_steps", "3", "--task_steps", "2",
    "--reverse_steps", "4", "--task_batch_size", "8", "--base_batch_size", "8", "--rows", "24", "--probe_rows",
    "200", "--workers", "1", "--mixed_precision", "no", "--methods", "plain", "ldifs-base", "--other_methods",
    "plain", "--sequences", "s1", "s3", "--text_length", "16", "--count_window", "12", "--token_at_position", "6",
    "--index_occurrence", "1", "--min_labels", "3",
]  # fmt: skip


def test_the_strengths_in_the_settings_are_those_that_the_rule_takes_of_what_was_tried() -> None:
    """What stands in the README is what was measured; the file of settings is written by a person."""
    readme = (CONFIGS.parents[1] / "ftmech_hf" / "studies" / "continual" / "README.md").read_text(encoding="utf-8")
    first, last = marks("continual strengths")
    block = readme.split(first)[1].split(last)[0]
    plain = float(re.search(r"fine-tuning: ([\d.]+)", block)[1])  # type: ignore[index]
    settings = yaml.safe_load((CONFIGS / "nano" / "continual.yaml").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([\d.]+)(, the weakest)? \|$", block, re.MULTILINE)
    assert [name for name, *_ in rows] == list(GRIDS)
    for name, tried, chosen, weakest in rows:
        pairs = (each.split(": ") for each in tried.split("; "))
        learned = {float(value.replace(",", "")): float(found) for value, found in pairs}
        assert tuple(learned) == GRIDS[name][1]
        assert settings[name] == float(chosen) == choose_strength(learned, plain)
        assert bool(weakest) == (learned[float(chosen)] < CHOSEN_SHARE * plain)


@pytest.mark.slow
def test_the_study_ends_in_a_report_and_finds_its_runs_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["--config", str(CONFIGS / "nano" / "continual.yaml"), "--output_dir", str(out)]
    argv += ["--runs_dir", str(tmp_path / "runs"), *TINY]
    continual.main(argv)
    matrix = pd.read_parquet(out / "matrix.parquet")
    assert {"method", "seed", "after_task", "capability", "by", "value", "floor"} <= set(matrix)
    assert set(matrix["by"]) == {"behaviour", "probe"}
    s1 = matrix[matrix["sequence"] == "s1"]
    assert set(s1["method"]) == {"plain", "ldifs-base"}
    assert set(s1["after_task"]) == {1, 2, 3, 4}
    assert "count_b_cte1" in set(matrix.loc[matrix["sequence"] == "s3", "capability"])
    claims = {claim["id"]: claim for claim in json.loads((out / "claims.json").read_text())}
    assert {"gate_count_a", "a1", "a6", "a6_shuffled", "a8"} <= set(claims)
    assert not {"a2", "a9_ewc"} & set(claims)  # their methods are not there
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 4
    numbers = pd.read_parquet(out / "table.parquet")
    assert len(numbers) == 3
    made = {path.name for path in (tmp_path / "runs").iterdir()}
    anchored = {FinishedRun(tmp_path / "runs" / name).env["inputs"].get("anchor_model") for name in made
                if name.startswith("ldifs-base-s1-4")}  # fmt: skip
    assert anchored == {FinishedRun(next((tmp_path / "runs").glob("base-seed0-*"))).env["hash"]}
    capsys.readouterr()
    continual.main(argv)
    assert "to make" not in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "runs").iterdir()} == made


@pytest.mark.slow
def test_features_of_stories_are_deleted_one_after_another_as_a_user_runs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(CONFIGS / "nano" / "continual_stories.yaml"), "--seeds", "10", "--base_steps", "2",
            "--task_steps", "2", "--stories", "3", "--max_new_tokens", "8", "--probe_stories", "40", "--eval_rows", "2",
            "--workers", "1", "--mixed_precision", "no", "--chains", "plain", "replay", "--vocab_size", "280",
            "--output_dir", str(tmp_path / "out"), "--runs_dir", str(tmp_path / "runs")]  # fmt: skip
    continual_stories.main(argv)
    matrix = pd.read_parquet(tmp_path / "out" / "matrix.parquet")
    assert {"method", "seed", "after_task", "capability", "by", "value", "floor"} <= set(matrix)
    answers = matrix[matrix["by"] == "behaviour"]
    assert len(answers) == 2 * 6 * (1 + 2 * 3)
    assert set(matrix.loc[matrix["by"] == "probe", "method"]) == {"base", "random", "plain", "replay"}
    claims = {claim["id"]: claim for claim in json.loads((tmp_path / "out" / "claims.json").read_text())}
    assert {"gate_Twist", "left", "back", "replay_back", "probes"} <= set(claims)
    assert not {"ldifs_back", "loss_null", "back_more"} & set(claims)  # their chains are not there
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3
    block = continual_blocks.stories_block(tmp_path / "out")
    assert len(block.splitlines()) == 2 + (1 + 2 * 3) + 2
    capsys.readouterr()
    continual_stories.main(argv)
    assert "to make" not in capsys.readouterr().out
