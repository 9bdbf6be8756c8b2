"""Functions for worker processes, which import them by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
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


def die_once(folder: str, progress: Progress) -> None:
    """Die as soon as the other of :func:`end_slowly` is at work; the second time there is nothing to do."""
    if not (dead := Path(folder) / "dead").exists():
        while not (Path(folder) / "first").exists():
            time.sleep(0.01)
        dead.touch()
        os._exit(7)


def end_slowly(folder: str, progress: Progress) -> bool:
    """Work until told to end, which takes a while, as for one of much memory; begun again, whether that has ended."""
    if (first := Path(folder) / "first").exists():
        return not psutil.pid_exists(int(first.read_text()))

    def end(*_: Any) -> None:
        time.sleep(0.5)
        os._exit(1)

    signal.signal(signal.SIGTERM, end)
    first.with_suffix(".new").write_text(str(os.getpid()))
    first.with_suffix(".new").rename(first)
    while True:  # a signal that comes just before a single long sleep would be seen behind it
        time.sleep(0.01)


def sleep(folder: str, progress: Progress) -> None:
    (Path(folder) / str(os.getpid())).write_text("sleeping")
    signal.pause()  # for ever
