"""Pairs of the study as runs: another seed is compared beside other seeds, and no null model is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ftmech_hf.models.tokenization import build_tokenizer, save_tokenizer
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.compare.comparison import run_comparison
from ftmech_hf.studies.compare_organisms.plan import OrganismsConfig, OrganismsPlan, SeedsConfig
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


def test_each_seed_is_compared_with_the_next_and_stories_in_windows_that_hold_their_twist(tmp_path: Path) -> None:
    config = OrganismsConfig(
        seeds=[3, 4, 5], organisms=["wrapper", "twist-f"], nothings=["noise", "other-seed"], row_tokens=96,
        mixed_precision="no", output_dir=str(tmp_path / "out"), runs_dir=str(tmp_path / "runs"),
    )  # fmt: skip
    plan = OrganismsPlan(config)
    seeds = {seed: plan.called_with(plan.pairs["other-seed", seed])["config"].models for seed in config.seeds}
    pairs = {frozenset(each.partition("=")[2] for each in models[:2]) for models in seeds.values()}
    assert [len(pairs), *map(len, pairs)] == [3, 2, 2, 2], "three pairs, of which none is another's"
    assert {tuple(each.partition("=")[0] for each in models) for models in seeds.values()} == {
        ("base", "finetuned", "null/0", "null/1", "null/2")
    }
    assert len({each for models in seeds.values() for each in models[2:]}) == 3, "the spare ones"
    widths = {
        name: plan.called_with(plan.pairs[name, 3])["config"].window_tokens for name in ("wrapper", "twist-f", "noise")
    }
    assert widths == {"wrapper": 64, "twist-f": 96, "noise": 64}
    trained = [call["train"] for calls in plan.by_kind().values() for call in calls if "train" in call]
    assert len(trained) >= 12
    assert {each.mixed_precision for each in trained} == {"no"}
    alone = OrganismsPlan(replace(config, seeds=[3]))
    models = alone.called_with(alone.pairs["other-seed", 3])["config"].models
    assert len(set(models)) == 4, "with nobody to compare with, a spare one is it"
