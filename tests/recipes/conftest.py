"""Runs that several tests of the recipes look at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipes import attention, finetune, interpolate, pretrain, probe, prune, reverse_finetune
from tests.processes import made_once, run_forked
from tests.recipes.commands import TOUR

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = RECIPES / "configs"
TINY = [
    "--steps=6", "--num_evals=2", "--eval_rows=16", "--final_eval_rows=64", "--checkpoint_every=2", "--batch_size=8",
]  # fmt: skip
CHAIN = ("pretrain", "finetune", "reverse_finetune", "prune", "probe", "attention", "interpolate")
"""The commands of the tour that :func:`chain` runs."""
SMALL = ["--n_layer=1", "--n_head=1", "--n_embd=16"]


def run_recipe(name: str, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    """A recipe in a process of its own."""
    return run_forked([str(RECIPES / f"{name}.py"), *argv], **options)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's tour of the recipes, with fewer steps and other folders."""
    return made_once(tmp_path_factory, "runs", take_tour)


def take_tour(runs: Path) -> None:
    """Run :data:`CHAIN` into a folder."""

    def argv(name: str, *more: str) -> list[str]:
        return [*TOUR[name], "--output_dir", str(runs / name), *more]

    models = ["--models", f"base={runs / 'pretrain'}", f"finetuned={runs / 'finetune'}"]
    pretrain.main(argv("pretrain", *TINY))
    finetune.main(argv("finetune", *TINY, "--model", str(runs / "pretrain")))
    reverse_finetune.main(argv("reverse_finetune", *TINY, "--model", str(runs / "finetune")))
    few = ["--model", str(runs / "finetune"), "--sizes", "0", "5", "--score_rows", "32", "--eval_rows", "32"]
    prune.main(argv("prune", *few))
    probe.main(
        argv("probe", *models, "--fit_rows", "80", "--test_rows", "40", "--num_shuffles", "1", "--num_tasks", "1")
    )
    three = [*models, f"reversed={runs / 'reverse_finetune'}"]
    attention.main(argv("attention", *three, "--rows", "8"))
    interpolate.main(argv("interpolate", *models, "--eval_rows", "64"))
