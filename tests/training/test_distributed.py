from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ftmech_hf.runs import damaged_files, read_metrics
from ftmech_hf.tasks import RowStream
from ftmech_hf.training.objectives import Batch, Documents
from tests.processes import run_in_time
from tests.training.distributed import DOCUMENTS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def launch(folder: Path, mode: str, stop_at: int = -1) -> None:
    start = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if not mode.startswith("one") else []
    )
    command = [sys.executable, *start, "-m", "tests.training.distributed", str(folder), mode, str(stop_at)]
    env = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    run_in_time(command, folder.with_name(f"{folder.name}-errors"), cwd=ROOT, env=env)


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_two_processes_resume_bit_for_bit(mode: str, tmp_path: Path) -> None:
    launch(tmp_path / "whole", mode)
    launch(tmp_path / "cut", mode, stop_at=5)
    assert (tmp_path / "cut.partial" / "checkpoints" / "step-00000004").is_dir()
    launch(tmp_path / "cut", mode)
    assert damaged_files(tmp_path / "cut") == []
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "cut")
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    if mode == "fsdp2":  # without dropout: each process draws its own
        launch(tmp_path / "one", "one")
        check_losses(tmp_path / "one", tmp_path / "whole")


def check_losses(one: Path, two: Path) -> None:
    """One process and two see the same steps and, up to rounding, which Muon's orthogonalisation amplifies, losses."""
    lines = [read_metrics(folder) for folder in (one, two)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    losses = [[line["loss"] for line in each[1:]] for each in lines]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_two_processes_weigh_every_token_of_packed_documents_alike(tmp_path: Path) -> None:
    """Where the two processes' rows hold unequally many tokens."""
    rows = torch.from_numpy(RowStream(DOCUMENTS, seed=0, split="train").rows(0, 8).token_ids)
    tokens = [Documents().weight(Batch(half)) for half in rows.chunk(2)]
    assert tokens[0] > 3 * tokens[1]
    for mode in ("one-documents", "ddp-documents"):
        launch(tmp_path / mode, mode)
    check_losses(tmp_path / "one-documents", tmp_path / "ddp-documents")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_launch_config_is_one_that_accelerate_reads(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert path.read_text().startswith("# ")
    content = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert config.num_processes == content["num_processes"] > 1
    assert config.distributed_type.value == content["distributed_type"]
