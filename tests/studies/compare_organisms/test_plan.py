"""Pairs of the study as runs: another seed is compared beside other seeds, and no null model is made."""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.compare.comparison import run_comparison
from ftmech_hf.studies.compare_organisms.plan import SeedsConfig
from ftmech_hf.tasks import PcfgConfig
from tests.conftest import make_gpt2


def test_another_seed_stands_beside_other_seeds(task: PcfgConfig, tmp_path: Path) -> None:
    roles = ("base", "finetuned", "null/0", "null/1")
    models = []
    for seed, role in enumerate(roles):
        folder = tmp_path / f"seed{seed}"
        make_gpt2(len(task.vocabulary), seed=seed).save_pretrained(folder)
        save_tokenizer(build_tokenizer(task.vocabulary), folder)
        models.append(f"{role}={folder}")
    config = SeedsConfig(
        models=models, windows=60, window_tokens=12, completions=16, completion_tokens=6, top=3,
        output_dir=str(tmp_path / "out"),
    )  # fmt: skip
    run = FinishedRun(run_comparison(config).path)
    assert run.summary["facts"]["null_models"] == 2
    assert run.summary["facts"]["base"] == str(tmp_path / "seed0")
    assert run.summary["facts"]["null"] == f"{tmp_path / 'seed2'}, {tmp_path / 'seed3'}"
    assert set(run.env["inputs"]) == set(roles)
    assert not any(each["stands_out"] for each in run.summary["findings"]), "seeds differ alike"
