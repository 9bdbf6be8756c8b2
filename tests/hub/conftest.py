"""Runs to publish, of models of three thousand parameters, and a Hub to publish them on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from recipes import finetune, make_dataset, pretrain, probe, prune
from tests.hub.server import TOKEN, HubServer, serve
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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub, and a cache of one's own; large files go by plain HTTP."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serve() as server:
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)


def client_env(hub: HubServer, home: Path, **more: str) -> dict[str, str]:
    """The environment of a user whose Hub is ours: HF_ENDPOINT is read when the libraries are imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    ours = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    return {**kept, **ours, **more}


PYTHON = sys.executable
