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
from ftmech_hf.studies.continual.stories import results as story_results
from ftmech_hf.studies.continual.stories.plan import DELETED, TRIED, StorySequenceConfig, StorySequencePlan
from ftmech_hf.tasks.stories import StoriesConfig
from recipes import continual, continual_stories
from recipes.readme import continual as continual_blocks
from recipes.update_readme import marks
from tests.studies.continual.stories.test_stories import matrix

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
TINY = [
    "--seeds", "0", "--n_layer", "1", "--n_embd", "16", "--base_steps", "3", "--task_steps", "2",
    "--reverse_steps", "4", "--task_batch_size", "8", "--base_batch_size", "8", "--rows", "24", "--probe_rows",
    "200", "--workers", "1", "--mixed_precision", "no", "--methods", "plain", "ldifs-base", "--other_methods",
    "plain", "--sequences", "s1", "s3", "--text_length", "16", "--count_window", "12", "--token_at_position", "6",
    "--index_occurrence", "1", "--min_labels", "3",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config", "grids"),
    [("continual strengths", "continual", GRIDS), ("continual stories strengths", "continual_stories", TRIED)],
)
def test_the_strengths_in_the_settings_are_those_that_the_rule_takes_of_what_was_tried(
    name: str, config: str, grids: dict[str, tuple[str, tuple[float, ...]]]
) -> None:
    """What stands in the README is what was measured; the file of settings is written by a person."""
    readme = (CONFIGS.parents[1] / "ftmech_hf" / "studies" / "continual" / "README.md").read_text(encoding="utf-8")
    first, last = marks(name)
    block = readme.split(first)[1].split(last)[0]
    plain = float(re.search(r"fine-tuning: ([\d.]+)", block)[1])  # type: ignore[index]
    settings = yaml.safe_load((CONFIGS / "nano" / f"{config}.yaml").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([\d.]+)(, too strong)? \|$", block, re.MULTILINE)
    assert [setting for setting, *_ in rows] == list(grids)
    for setting, tried, chosen, too_strong in rows:
        pairs = (each.split(": ") for each in tried.split("; "))
        learned = {float(value.replace(",", "")): float(found) for value, found in pairs}
        assert tuple(learned) == grids[setting][1]
        assert settings[setting] == float(chosen) == choose_strength(learned, plain)
        assert bool(too_strong) == (learned[float(chosen)] < CHOSEN_SHARE * plain)


def test_the_strengths_that_were_tried_on_stories_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted to nine tenths of what fine-tuning deletes is too weak, to 0.96 of it is enough."""
    config = StorySequenceConfig(seeds=[99], develop=True, task_steps=100, base_steps=1200, output_dir=str(tmp_path))
    plan = StorySequencePlan(config, StoriesConfig())
    table = matrix(99)
    parts = [table[table["method"].isin(("base", "plain"))]]
    for name, left in {"ldifs-previous@1": 0.1, "ldifs-previous@10": 0.136, "ldifs-previous@100": 0.19,
                       "replay@0.1": 0.5, "replay@0.25": 0.6}.items():  # fmt: skip
        each = table[table["method"] == "plain"].assign(method=name)
        deleted = each["capability"].isin(DELETED) & (each["site"] == "") & (each["value"] < 0.2)
        parts.append(each.assign(value=each["value"].where(~deleted, left)))
    monkeypatch.setattr(story_results, "read_matrix", lambda plan: pd.concat(parts))
    story_results.write_results(plan)
    assert json.loads((tmp_path / "strengths.json").read_text()) == {"ldifs_strength": 10, "replay": 0.1}
    assert continual_blocks.stories_strengths_block(tmp_path).splitlines() == [
        "| setting | stories without a feature right after its deletion, % (fine-tuning: 90.0) | chosen |",
        "|---|---|---|",
        "| `ldifs_strength` | 1: 90.0; 10: 86.4; 100: 81.0 | 10 |",
        "| `replay` | 0.1: 50.0; 0.25: 40.0 | 0.1, too strong |",
        "",
        "Seed 99, two tasks of 100 steps from a base of 1,200.",
    ]


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
            "--probed", "plain", "replay", "--buffer_rows", "16",
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
