"""The study of safety fine-tuning as a user runs it, small."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.hub import save
from ftmech_hf.jobs.card import check_card
from ftmech_hf.models.memory import say_bytes, training_bytes, weight_bytes
from ftmech_hf.models.presets import find_preset, model_config
from ftmech_hf.studies.safety.plan import ANALYSES, FORGETTING, PROTOCOLS, THE_PAPERS, never
from ftmech_hf.studies.safety.sections import SHOWN
from recipes import safety
from tests.browser import check_page

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
TINY = [
    "--seeds", "0", "--n_layer", "2", "--n_embd", "16", "--base_steps", "3", "--tune_steps", "2", "--batch_size", "8",
    "--eval_rows", "24", "--answer_rows", "24", "--relearn_steps", "1", "--workers", "1", "--mixed_precision", "no",
]  # fmt: skip


def test_the_papers_size_is_timed_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--config", str(CONFIGS / "paper" / "safety.yaml"), "--output_dir", str(tmp_path), "--max_steps", "1"]
    safety.main(
        [
            *argv,
            "--runs_dir",
            str(tmp_path / "runs"),
            "--seeds",
            "0",
            "--n_layer",
            "2",
            "--n_embd",
            "24",
            "--batch_size",
            "8",
        ]
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "81 runs, 22 of them to train: 3,200,000 rows" in said  # two bases of 100,000 steps and 20 of 10,000


def test_sizes_of_the_papers_scale_are_said_and_nothing_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve matrices of width squared a block with their biases and norms, embeddings, 32 words twice, 320 places."""
    argv = ["--config", str(CONFIGS / "paper" / "safety.yaml"), "--output_dir", str(tmp_path / "out"), "--seeds", "0"]
    safety.main([*argv, "--runs_dir", str(tmp_path / "runs"), "--max_steps", "0"])
    said = " ".join(capsys.readouterr().out.split())
    parameters = 6 * (12 * 192**2 + 13 * 192) + 2 * 192 + (2 * 32 + 320) * 192
    assert f"width 192, 32 words: {parameters:,} parameters, 11 MB in float32" in said
    tokens = 100_000 * 512 * 31
    flops = 6 * (parameters - (32 + 320) * 192) * tokens  # rows of embeddings are looked up
    assert f"2 x 100,000 steps of 512 rows of 31 tokens: {tokens:.2g} tokens, {flops:.2g} floating-point" in said
    assert "6 x 10,000 steps of 512 rows" in said  # four of SSFT, benign and shuffled
    config = model_config(find_preset("paper"), 32)
    pairs = training_bytes(config, 1024, 31)
    # Of pairs: unlearning three times, GradDiff and SimNPO twice; DPO three times, NPO and RMU twice.
    for what, copies in (("", 1), (", beside the start", 2)):
        taken = say_bytes(copies * weight_bytes(config) + pairs)
        assert f"7 x 10,000 steps of 512 pairs of 31 tokens{what}: 3.2e+08 tokens" in said
        assert f"operations each, about {taken}" in said.partition(f"pairs of 31 tokens{what}:")[2].partition(" x ")[0]
    assert "81 runs, 22 of them to train: 204,800,000 rows; --max_steps 20 says" in said
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit):
        safety.main([*argv, "--max_steps", "-1"])
    assert "max_steps: -1, expected 0 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_the_study_ends_in_a_report_and_finds_its_runs_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["--config", str(CONFIGS / "nano" / "safety.yaml"), "--output_dir", str(out)]
    argv += ["--runs_dir", str(tmp_path / "runs"), *TINY]
    safety.main(argv)
    table = pd.read_parquet(out / "table.parquet")
    assert set(table["model"]) == {
        "base", "never", *PROTOCOLS, *(f"{name}-slow" for name in THE_PAPERS),
        *(never(name) for name in (*THE_PAPERS, *FORGETTING)),
    }  # fmt: skip
    claims = {claim["id"]: claim for claim in json.loads((out / "claims.json").read_text())}
    assert {f"{name}_forgot" for name in FORGETTING} | {
        "jb_gap",
        "jb_order",
        "never_jb",
        "shuffled_null",
        "tau",
        "outside",
        "extrapolate",
        "ablate",
        "relearn_ten",
        "soft",
    } <= set(claims)
    assert claims["base_safe"]["verdict"] == "fails"  # after three steps
    assert claims["ssft_null"]["floor"] == 100.0  # whoever always refuses
    assert claims["base_safe"]["floor"] < 10
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml") == len(SHOWN)
    verdicts = json.loads((out / "verdicts.json").read_text())
    assert [row["model"] for row in verdicts] == [*THE_PAPERS, *FORGETTING]
    assert {row["verdicts"]["0"] for row in verdicts} == {"nothing to lose"}  # after three steps
    assert "nothing to lose (seed 0)" in page
    assert "52 % from which letter stands where" in page
    places = {"results": out}
    places |= {name: next((tmp_path / "runs").glob(f"{name}-seed0-*")) for name in ("ssft", "lines-ssft")}
    said = {
        name: (save(run, tmp_path / name, f"someone/{name}")["main"] / "README.md").read_text()
        for name, run in places.items()
    }
    check_card(said["results"], "dataset")
    check_card(said["ssft"], "model")
    assert "What makes and what breaks safety fine-tuning?" in said["results"]
    assert "What lies between a base and a safe model, and beyond." in said["lines-ssft"]
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(made) == 2 * 22 + sum(len(each.models) for each in ANALYSES.values()) + 7
    capsys.readouterr()
    safety.main(argv)
    assert "to make" not in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == made
    check_page(out / "report.html")
