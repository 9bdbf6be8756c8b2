"""Many independent runs side by side: one single-threaded process per core, or some on each GPU.

On two cores, two one-thread processes train the nano scale faster than one process with two threads, and a number that
was computed with one thread does not depend on how many cores the machine has.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ftmech_hf.config import in_one_line, is_internal, keep_report
from ftmech_hf.jobs.beside import exit_with_parent
from ftmech_hf.jobs.cell import Cell, run_cell
from ftmech_hf.jobs.workers import count_workers, find_gpus, say_side_by_side
from ftmech_hf.runs import count_cores
from ftmech_hf.training.progress import make_bar

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


class _Bar:
    """One progress bar over all cells, fed by the workers."""

    def __init__(self, cells: Sequence[Cell], reports: Any, description: str) -> None:
        self._costs = {cell.name: cell.cost for cell in cells}
        self._shares = dict.fromkeys(self._costs, 0.0)
        self._bar = make_bar(
            total=100.0, desc=description, bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
        )
        self._reports: Any = None
        self.listen(reports)

    def listen(self, reports: Any) -> None:
        """Listen to this queue from now on; a worker that died while writing may have left another unusable."""
        if reports is not self._reports:
            self._reports = reports
            self._thread = threading.Thread(target=self._follow, args=(reports,), daemon=True)
            self._thread.start()

    def _follow(self, reports: Any) -> None:
        while (report := reports.get()) is not None:
            name, share, text = report
            self._shares[name] = share
            done = sum(self._costs[cell] * share for cell, share in self._shares.items())
            # sums round differently in another order: a little over the total would be a warning
            total = sum(self._costs.values()) or 1.0  # of runs of no steps it is 0
            self._bar.update(min(100 * done / total, 100.0) - self._bar.n)
            if text or share == 1:
                self._bar.set_postfix_str(f"{name}: {text or 'done'}"[:70])

    def close(self) -> None:
        self._reports.put(None)
        self._thread.join(timeout=5)
        self._bar.close()


def _chain_costs(cells: Sequence[Cell]) -> dict[str, float]:
    """The cost of each cell and the longest chain of cells that wait for it; cells come after what they need."""
    totals: dict[str, float] = {}
    for cell in reversed(cells):
        after = [totals[other.name] for other in cells if cell.name in other.needs]
        totals[cell.name] = cell.cost + max(after, default=0.0)
    return totals


@dataclass(frozen=True)
class Outcome:
    """What became of the cells of a plan.

    Attributes:
        results: cell name -> what its function returned.
        failed: cell name -> why it failed.
        not_begun: names of the cells that needed one that failed.
    """

    results: dict[str, Any]
    failed: dict[str, BaseException]
    not_begun: list[str]

    def describe(self) -> str:
        """The failures in words; empty if there were none."""
        if not self.failed:
            return ""
        number = len(self.results) + len(self.failed) + len(self.not_begun)
        skipped = f"; {len(self.not_begun)} that need them were not begun" if self.not_begun else ""
        name, error = next(iter(self.failed.items()))
        # a bug's traceback, of the worker as well, is kept where the line says
        report = (
            f" (a fault of ftmech_hf, not yours: please report it with {keep_report(error)})"
            if is_internal(error)
            else ""
        )
        return f"{len(self.failed)} of {number} runs failed{skipped}; first {name}: {in_one_line(error)}{report}"

    def check(self) -> None:
        """Raise what :meth:`describe` says.

        Raises:
            ValueError: some cells failed.
        """
        if self.failed:
            raise ValueError(self.describe()) from next(iter(self.failed.values()))


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


def _make_pool(backend: str, workers: int, most: int) -> Any:
    if backend == "ray":
        from ftmech_hf.jobs.ray import RayPool  # an extra

        return RayPool(workers)
    gpus = find_gpus()
    default = count_workers(most, cores=count_cores(), gpus=len(gpus))
    return LocalPool(min(workers, max(1, most)) if workers else default, gpus)


class _Schedule:
    """Which cell comes next, and what became of the others."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        order = _chain_costs(cells)
        self.waiting = sorted(cells, key=lambda cell: -order[cell.name])
        self.running: dict[Future[Any], Cell] = {}
        self.suspects: list[Cell] = []
        self.outcome = Outcome({}, {}, [])

    def ready(self, workers: int) -> list[Cell]:
        """The cells to start now. One in whose company a worker died runs alone, so that it cannot harm another."""
        if self.suspects:
            return [] if self.running else [self.suspects[0]]
        able = [cell for cell in self.waiting if all(need in self.outcome.results for need in cell.needs)]
        return able[: workers - len(self.running)]

    def start(self, cell: Cell, future: Future[Any]) -> None:
        if cell in self.waiting:
            self.waiting.remove(cell)
        self.running[future] = cell

    def finish(self, future: Future[Any], pool: Any) -> None:
        cell = self.running.pop(future)
        error = future.exception()
        if error is None:
            self.outcome.results[cell.name] = future.result()
        elif pool.died(error) and cell not in self.suspects:
            self.suspects += [cell, *self.running.values()]  # any of them may have done it
            self.running.clear()
            return
        else:
            self.outcome.failed[cell.name] = getattr(error, "cause", None) or error  # Ray wraps it in a traceback
        if cell in self.suspects:
            self.suspects.remove(cell)


def run_cells(cells: Sequence[Cell], *, workers: int = 0, backend: str = "local", description: str = "runs") -> Outcome:
    """Run cells side by side, each as soon as what it needs is there.

    A cell that fails does not stop the others; neither does one whose worker dies.

    Args:
        cells: in an order in which needs come first.
        workers: how many side by side; 0 for one per core, with GPUs as many as
            :func:`~ftmech_hf.jobs.workers.count_workers` says.
        backend: ``local`` processes, or ``ray`` (the extra ``ray``) on this machine or a cluster.
        description: of the progress bar.

    Returns:
        what became of every cell.
    """
    schedule = _Schedule(cells)
    pool = _make_pool(backend, workers, len(cells))
    bar = _Bar(cells, pool.reports, description)
    finished = False
    try:
        while True:
            for cell in schedule.ready(pool.workers):
                schedule.start(cell, pool.submit(cell))
            if not schedule.running:
                break  # what is left needs a cell that failed
            for future in wait(schedule.running, return_when=FIRST_COMPLETED).done:
                if future in schedule.running:
                    schedule.finish(future, pool)
                    bar.listen(pool.reports)
        finished = True
    finally:
        bar.close()
        pool.close(stop=not finished)
    schedule.outcome.not_begun.extend(cell.name for cell in schedule.waiting)
    return schedule.outcome
