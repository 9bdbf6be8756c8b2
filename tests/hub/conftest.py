"""Runs to publish, of models of three thousand parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes import finetune, make_dataset, pretrain, probe, prune
from tests.recipes.conftest import CONFIGS, TINY

SMALL = ["--n_layer=1", "--n_head=1", "--n_embd=16"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with two snapshots, fine-tuned whole and by an adapter, pruned and probed; and a dataset."""
    folder = tmp_path_factory.mktemp("hub") / "runs"

    def argv(recipe: str, name: str, *more: str) -> list[str]:
        return ["--config", str(CONFIGS / "nano" / f"{recipe}.yaml"), "--output_dir", str(folder / name), *more]

    base, tuned = ["--model", str(folder / "base")], ["--model", str(folder / "tuned")]
    pretrain.main(argv("pretrain", "base", *TINY, *SMALL, "--snapshots", "2", "4"))
    finetune.main(argv("finetune", "tuned", *TINY, *base))
    finetune.main(argv("finetune", "lora", *TINY, *base, "--adapter", "lora", "--lora_rank", "2"))
    prune.main(argv("prune", "prune", *tuned, "--sizes", "0", "5", "--score_rows", "32", "--eval_rows", "32"))
    models = ["--models", f"base={folder / 'base'}", f"finetuned={folder / 'tuned'}"]
    probe.main(argv("probe", "probe", *models, "--fit_rows", "80", "--test_rows", "40"))
    make_dataset.main(argv("make_dataset", "rows", "--variants", "pretrain-low", "count_b-c1",
                           "--rows", "train=60", "test=20"))  # fmt: skip
    return folder
