"""Functions for worker processes, which import them by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # workers start faster without it
    from ftmech_hf.training.loop import Progress


def record(folder: str, name: str, waits_for: list[str], progress: Progress) -> dict[str, Any]:
    from ftmech_hf.jobs import workers

    missing = [other for other in waits_for if not (Path(folder) / other).exists()]
    progress(1, 2, "half")
    (Path(folder) / name).write_text("done")
    return {
        "missing": missing, "threads": torch.get_num_threads(), "pid": os.getpid(), "parent": os.getppid(),
        "loaded": "ftmech_hf.jobs.training" in sys.modules, "told": os.environ.get("TOLD"),
        "side_by_side": workers._side_by_side,
    }  # fmt: skip


def meet(folder: str, name: str, others: list[str], progress: Progress) -> str | None:
    """Which GPU this worker has, once all others run as well."""
    (Path(folder) / name).write_text("here")
    for _ in range(6000):
        if all((Path(folder) / other).exists() for other in others):
            return os.environ.get("CUDA_VISIBLE_DEVICES")
        time.sleep(0.01)
    raise TimeoutError("the others did not come")


def add_on_gpu(progress: Progress) -> float:
    return float(torch.ones(3, device="cuda").sum())


def without_steps(progress: Progress) -> str:
    progress(0, 0, "")
    return "done"


def fail(progress: Progress) -> None:
    raise ValueError("lr: too large")


def die(progress: Progress) -> None:
    os._exit(7)


def sleep(folder: str, progress: Progress) -> None:
    (Path(folder) / str(os.getpid())).write_text("sleeping")
    signal.pause()  # for ever
