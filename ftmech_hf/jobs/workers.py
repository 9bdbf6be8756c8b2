"""How many runs side by side, and which GPU each of them has."""

from __future__ import annotations

import math
import os

import torch
from accelerate.utils import parse_flag_from_env

from ftmech_hf.runs import count_cores

PER_GPU = 4
"""Workers that share a GPU: runs of small models, for which these are, leave most of one idle."""


_side_by_side = 1


def say_side_by_side(workers: int) -> None:
    """Note in a worker how many of them there are, itself among them."""
    global _side_by_side
    _side_by_side = workers


def spare_cores() -> int:
    """Cores for what helps a run, such as processes that make its rows: its part of the machine's, less its own."""
    return max(count_cores() // _side_by_side - 1, 0)


def find_gpus() -> list[str]:
    """The GPUs that workers may use, each as CUDA_VISIBLE_DEVICES names it alone; none with ACCELERATE_USE_CPU=1."""
    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return []
    number = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if parts := [name for name in named if name.startswith("MIG-")]:  # of which a process sees the first alone
        return parts
    return named[:number] or [str(place) for place in range(number)]


def count_workers(most: int, *, cores: int, gpus: int) -> int:
    """How many workers there are by default: one per core, with GPUs at most :data:`PER_GPU` on each of them.

    Args:
        most: cells that there are to run.
        cores, gpus: of the machine or the cluster.
    """
    return max(1, min([cores, most, *([PER_GPU * gpus] if gpus else [])]))


def gpu_share(workers: int, gpus: int) -> float:
    """The part of a GPU that each worker asks for, so that all have theirs at once: no worker is given parts of two."""
    return 1 / math.ceil(workers / gpus) if gpus else 0.0
