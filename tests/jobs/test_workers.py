from __future__ import annotations

import pytest
import torch

from ftmech_hf.jobs import workers
from ftmech_hf.jobs.workers import PER_GPU, count_workers, find_gpus, gpu_share


def test_workers_are_as_many_as_cores_cells_and_gpus_allow() -> None:
    assert count_workers(99, cores=16, gpus=0) == 16
    assert count_workers(3, cores=16, gpus=0) == 3
    assert count_workers(99, cores=16, gpus=2) == 2 * PER_GPU
    assert count_workers(99, cores=4, gpus=8) == 4
    assert count_workers(0, cores=4, gpus=0) == 1


def test_what_helps_a_run_has_its_part_of_the_cores_that_no_run_computes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "count_cores", lambda: 16)
    assert workers.spare_cores() == 15
    monkeypatch.setattr(workers, "_side_by_side", 1)  # put back at the end
    for number, spare in ((4, 3), (16, 0), (40, 0)):
        workers.say_side_by_side(number)
        assert workers.spare_cores() == spare


@pytest.mark.parametrize(("number", "gpus"), [(1, 1), (3, 2), (8, 2), (5, 4), (2, 8)])
def test_all_workers_have_their_share_at_once_and_none_of_two_gpus(number: int, gpus: int) -> None:
    share = gpu_share(number, gpus)
    assert 0 < share <= 1
    assert int(1 / share + 1e-9) * gpus >= number  # as Ray places them: whole shares on each GPU
    assert share == 1 or int(1 / share + 1e-9) * gpus < number + gpus  # and none is smaller than it need be


def test_workers_on_machines_without_gpus_ask_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_share(4, 0) == 0
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert find_gpus() == []


@pytest.mark.cuda
def test_gpus_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_gpus()
    assert found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(f"GPU-{name}" for name in found))
    assert find_gpus() == [f"GPU-{name}" for name in found]


def test_every_part_of_a_gpu_has_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA shows a process the first of several."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a, MIG-b")
    assert find_gpus() == ["MIG-a", "MIG-b"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert find_gpus() == ["GPU-a"]
