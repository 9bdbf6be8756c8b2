from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ftmech_hf.runs import damaged_files, read_metrics
from ftmech_hf.tasks import RowStream
from ftmech_hf.training.objectives import Batch, Documents
from tests.processes import forked, wait_until
from tests.training.distributed import DOCUMENTS

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def launch(folder: Path, *trainings: tuple[str, str, int]) -> None:
    """Trainings one after the other, each of a name, a mode and the step that it is stopped at, or -1.

    By two processes as torchrun starts them, or by one.
    """
    number = 1 if all(mode.startswith("one") for _, mode, _ in trainings) else 2
    words = [word for name, mode, stop_at in trainings for word in (str(folder / name), mode, str(stop_at))]
    env = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    if number == 2:
        with socket.create_server(("127.0.0.1", 0)) as free:
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        env |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with contextlib.ExitStack() as stack:
        processes = []
        for rank in range(number):
            ranked = {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)} if number == 2 else env
            command = ["-m", "tests.training.distributed", *words]
            errors = folder / f"errors-{rank}"
            processes.append(stack.enter_context(forked(command, errors, cwd=ROOT, env=ranked)))
        codes = wait_until(lambda: _all_or_a_failed([each.poll() for each in processes]))
    assert codes == [0] * number, "\n".join(path.read_text() for path in sorted(folder.glob("errors-*")))


def _all_or_a_failed(codes: list[int | None]) -> list[int | None] | None:
    """What processes ended with: one that fails leaves another waiting for it."""
    return codes if None not in codes or any(codes) else None


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains."""
    folder = tmp_path_factory.mktemp("one")
    launch(folder, ("rows", "one", -1), ("documents", "one-documents", -1))
    return folder


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_two_processes_resume_bit_for_bit(mode: str, one: Path, tmp_path: Path) -> None:
    """Others than those that were stopped; on packed documents they weigh every token alike."""
    packed = [("packed", "ddp-documents", -1)] if mode == "ddp" else []
    launch(tmp_path, ("whole", mode, -1), ("cut", mode, 5), *packed)
    assert (tmp_path / "cut.partial" / "checkpoints" / "step-00000004").is_dir()
    launch(tmp_path, ("cut", mode, -1))
    assert damaged_files(tmp_path / "cut") == []
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "cut")
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    check_evaluation(one / "rows", tmp_path / "whole")
    if mode == "fsdp2":  # without dropout: each process draws its own
        check_losses(one / "rows", tmp_path / "whole")
    else:
        check_losses(one / "documents", tmp_path / "packed")
        check_evaluation(one / "documents", tmp_path / "packed")


def check_evaluation(one: Path, two: Path) -> None:
    """Two processes share 96 rows, find what one finds, and each measure all 95, which they cannot share."""
    (alone,), pair = (
        [json.loads(path.read_text()) for path in sorted(folder.with_name(f"{folder.name}-evaluated").iterdir())]
        for folder in (one, two)
    )
    for each in pair:
        assert each["found"].keys() == alone["found"].keys()
        for rows, found in each["found"].items():
            assert found == pytest.approx(alone["found"][rows], rel=1e-6)
            if "accuracy/all" in found:
                assert found == alone["found"][rows]
                assert 0 < found["accuracy/all"] < 0.5
    tests = len(alone["found"]["96"])
    assert sum(alone["seen"]) == tests * (96 + 95)
    assert [sum(each["seen"]) for each in pair] == [tests * (48 + 95)] * 2


def check_losses(one: Path, two: Path) -> None:
    """One process and two see the same steps and, up to rounding, which Muon's orthogonalisation amplifies, losses."""
    lines = [read_metrics(folder) for folder in (one, two)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    losses = [[line["loss"] for line in each[1:]] for each in lines]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


def test_the_two_processes_rows_of_packed_documents_hold_unequally_many_tokens() -> None:
    rows = torch.from_numpy(RowStream(DOCUMENTS, seed=0, split="train").rows(0, 8).token_ids)
    tokens = [Documents().weight(Batch(half)) for half in rows.chunk(2)]
    assert tokens[0] > 3 * tokens[1]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_launch_config_is_one_that_accelerate_reads(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert path.read_text().startswith("# ")
    content = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert config.num_processes == content["num_processes"] > 1
    assert config.distributed_type.value == content["distributed_type"]
