"""Many independent runs side by side: one single-threaded process per core, or some on each GPU.

On two cores, two one-thread processes train the nano scale faster than one process with two threads, and a number that
was computed with one thread does not depend on how many cores the machine has.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from ftmech_hf.config import in_one_line, is_internal, keep_report
from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.local_pool import LocalPool
from ftmech_hf.jobs.workers import count_workers, find_gpus
from ftmech_hf.runs import count_cores
from ftmech_hf.training.progress import make_bar

LOOK = 5.0
"""Seconds after which it is seen whether a worker died of which nobody has heard."""


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
            ended = wait(schedule.running, timeout=LOOK, return_when=FIRST_COMPLETED).done
            if not ended:
                pool.look()
            for future in ended:
                if future in schedule.running:
                    schedule.finish(future, pool)
                    bar.listen(pool.reports)
        finished = True
    finally:
        bar.close()
        pool.close(stop=not finished)
    schedule.outcome.not_begun.extend(cell.name for cell in schedule.waiting)
    return schedule.outcome
