"""The study of retrieval as a command: what it would take at a large size, and, slow, all of it at a tiny one."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.models.presets import build_model, find_preset
from ftmech_hf.studies.retrieval.answers import WAYS
from ftmech_hf.studies.retrieval.plan import DIAGNOSED, TUNINGS
from recipes import retrieval
from tests.browser import check_page

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"


def test_the_large_size_is_timed_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    retrieval.main(
        ["--config", str(CONFIGS / "paper" / "retrieval.yaml"), "--preset", "nano-library", "--base_batch_size", "2",
         "--seeds", "0", "--output_dir", str(tmp_path), "--runs_dir", str(tmp_path / "runs"), "--max_steps", "1"]
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    # 10,000 and 2,000 steps of two rows; of 32 rows 32, 79 and 157 steps of three kinds, 157 of two clocks and five
    # others, seven rates, and of training back 300 and twice 1,000
    tuned = 3 * (32 + 79 + 157) + 2 * 157 + 5 * 157 + 7 * 157
    rows = 2 * (10_000 + 2_000) + 32 * (tuned + 2_300)
    assert f"{rows:,} rows" in said
    assert not (tmp_path / "report.html").exists()


def test_the_large_size_has_what_its_name_says() -> None:
    preset = find_preset("paper-library")
    assert build_model(preset._replace(n_layer=2), 421, seed=0).config.layer_types == ["conv", "full_attention"]
    assert (preset.n_layer, preset.n_embd, preset.tied) == (12, 768, True)


@pytest.mark.slow
def test_a_tiny_study_is_run_from_its_command(tmp_path: Path) -> None:
    retrieval.main(
        ["--config", str(CONFIGS / "nano" / "retrieval.yaml"), "--seeds", "0", "--base_steps", "2", "--heart_steps",
         "2", "--base_batch_size", "2", "--batch_size", "8", "--sizes", "200", "201", "202", "--epochs", "1",
         "--rates", "1e-3", "--questions", "2", "--reverse_steps", "2", "--never_steps", "2", "--mixed_precision", "no",
         "--output_dir", str(tmp_path), "--runs_dir", str(tmp_path / "runs")]
    )  # fmt: skip
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert set(table["model"]) == {"base", "heart", "random", *TUNINGS}
    plain = table[(table["part"] == "all") & (table["asked"] == "any") & (table["people"] != "all_taught")]
    assert plain.groupby("model").size().eq(len(WAYS)).all()
    assert set(table.loc[table["people"] == "all_taught", "rows"]) == {101, 202}
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())
    assert {row["model"]: row["verdicts"] for row in verdicts} == {
        model: {"0": "nothing to lose"} for model in DIAGNOSED
    }
    claims = {each["id"]: each for each in json.loads((tmp_path / "claims.json").read_text())}
    assert claims["gate_one"]["verdict"] == "fails"  # what was never trained reads nothing
    assert {"read_lost", "look_lost", "b3_control", "b7"} <= set(claims)
    check_page(tmp_path / "report.html")
