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
from recipes import continual
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
