"""Processes of this machine that run cells: one thread each, and where there are GPUs one of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ftmech_hf.jobs.beside import exit_with_parent
from ftmech_hf.jobs.cell import Cell, run_cell
from ftmech_hf.jobs.workers import say_side_by_side

LOADED = ["ftmech_hf.jobs.copied"]
"""What the process has loaded that workers are copies of, and torch, transformers and datasets with it."""

_reports: Any = None  # a worker's end of the progress queue


def start_method() -> str:
    """How workers start: as copies of a process that has loaded what they need, which takes no time.

    It computes nothing itself, so that it has no threads, and asks for no GPU, which would be of no use to its copies.
    """
    return "forkserver" if sys.platform == "linux" else "spawn"


def fork_context() -> Any:
    """What starts workers: where they are copies, of a process that has loaded what they need by now."""
    context = multiprocessing.get_context(method := start_method())
    if method == "forkserver":
        _load_beforehand()
    return context


def _load_beforehand() -> None:
    """Start the process that workers are copies of, if it is not there, without the modules of the user's folder."""
    kept = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.set_forkserver_preload(LOADED)
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if kept is not None:
            os.environ["PYTHONSAFEPATH"] = kept


def _start_worker(reports: Any, environment: Mapping[str, str], gpus: Any, side_by_side: int) -> None:
    global _reports
    _reports = reports
    say_side_by_side(side_by_side)
    os.environ.clear()  # that of the process it is a copy of is as old as the first worker
    os.environ.update(environment)
    if (gpu := gpus.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before this process looks for one: it sees this one alone
    torch.set_num_threads(1)
    threadpool_limits(1)
    exit_with_parent()  # an orphan would keep the run folder's lock, too


def _run_in_worker(cell: Cell) -> Any:
    return run_cell(cell, _reports)


def _nothing() -> None:
    """What wakes an executor and asks nothing of a worker."""


class LocalPool:
    """Processes of this machine, each with one thread, and where there are GPUs with one of them.

    Args:
        workers: how many.
        gpus: of :func:`~ftmech_hf.jobs.workers.find_gpus`; workers take them in turn.
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        self.workers, self._gpus = workers, list(gpus)
        self._context = fork_context()
        self._start()

    def _start(self) -> None:
        self._looked: Future[None] | None = None
        self.reports: Any = self._context.SimpleQueue()
        gpus = self._context.SimpleQueue()
        for place in range(self.workers):
            gpus.put(self._gpus[place % len(self._gpus)] if self._gpus else None)
        self._executor = ProcessPoolExecutor(
            self.workers,
            mp_context=self._context,
            initializer=_start_worker,
            initargs=(self.reports, dict(os.environ), gpus, self.workers),
        )

    def submit(self, cell: Cell) -> Future[Any]:
        """Start a cell in a free worker; if one died since the last result, the future says so as others will."""
        try:
            return self._executor.submit(_run_in_worker, cell)
        except BrokenProcessPool as error:
            future: Future[Any] = Future()
            future.set_exception(error)
            return future

    def look(self) -> None:
        """See whether a worker died that the executor does not watch yet; futures then say so.

        It waits for results and for the ends of those that it had when it began to wait: one that was begun meanwhile
        is watched from the next result or task on. If it dies before, its cell does not end until something else does.
        """
        if self._looked is None or self._looked.done():
            with contextlib.suppress(BrokenProcessPool):  # what runs there ends with the same error, and is begun again
                self._looked = self._executor.submit(_nothing)

    def died(self, error: BaseException) -> bool:
        """Whether a worker died, for want of memory perhaps, and took the others with it; if so, start new ones.

        The others have ended before that: until then they keep their memory, and hold the runs that they made.
        """
        if not isinstance(error, BrokenProcessPool):
            return False
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._start()
        return True

    def close(self, *, stop: bool) -> None:
        """Let go of the workers; ``stop`` ends what they do."""
        if stop:
            for process in multiprocessing.active_children():
                process.terminate()
        self._executor.shutdown(wait=False, cancel_futures=True)
