"""Many independent runs side by side: one single-threaded process per core.

On two cores, two one-thread processes train the nano scale faster than one process with two threads, and a number that
was computed with one thread does not depend on how many cores the machine has.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ftmech_hf.training.memory import release_freed_memory


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: unique; shown in the progress bar and in errors.
        function: importable; called in a worker as ``function(**kwargs, progress=...)``.
        kwargs: its picklable arguments.
        cost: expected work, in any unit; the progress bar counts it, and the longest chain of needs goes first.
        needs: names of the cells that must be finished before.
    """

    name: str
    function: Callable[..., Any]
    kwargs: Mapping[str, Any]
    cost: float
    needs: tuple[str, ...] = field(default=())


_reports: Any = None  # a worker's end of the progress queue


def _start_worker(reports: Any) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(1)
    threadpool_limits(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        # A parent that was killed cannot stop us; an orphan would keep the core and the run folder's lock.
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _run_cell(cell: Cell) -> Any:
    last_report = 0.0

    def progress(step: int, steps: int, text: str) -> None:
        nonlocal last_report
        if text or time.monotonic() - last_report > 0.5:
            last_report = time.monotonic()
            _reports.put((cell.name, step / steps, text))

    result = cell.function(**cell.kwargs, progress=progress)
    release_freed_memory()  # another kind of cell may come next
    _reports.put((cell.name, 1.0, ""))
    return result


class _Bar:
    """One progress bar over all cells, fed by the workers."""

    def __init__(self, cells: Sequence[Cell], reports: Any, description: str) -> None:
        self._costs = {cell.name: cell.cost for cell in cells}
        self._shares = dict.fromkeys(self._costs, 0.0)
        self._reports = reports
        self._bar = tqdm(
            total=100.0, desc=description, bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while (report := self._reports.get()) is not None:
            name, share, text = report
            self._shares[name] = share
            done = sum(self._costs[cell] * share for cell, share in self._shares.items())
            self._bar.update(100 * done / sum(self._costs.values()) - self._bar.n)
            if text or share == 1:
                self._bar.set_postfix_str(f"{name}: {text or 'done'}"[:70])

    def close(self) -> None:
        self._reports.put(None)
        self._thread.join()
        self._bar.close()


def _chain_costs(cells: Sequence[Cell]) -> dict[str, float]:
    """The cost of each cell and the longest chain of cells that wait for it; cells come after what they need."""
    totals: dict[str, float] = {}
    for cell in reversed(cells):
        after = [totals[other.name] for other in cells if cell.name in other.needs]
        totals[cell.name] = cell.cost + max(after, default=0.0)
    return totals


def run_cells(cells: Sequence[Cell], *, workers: int = 0, description: str = "runs") -> dict[str, Any]:
    """Run cells in worker processes, each as soon as what it needs is there.

    Args:
        cells: in an order in which needs come first.
        workers: processes; 0 for one per core.
        description: of the progress bar.

    Returns:
        cell name -> what its function returned.

    Raises:
        ValueError: some cells failed; the others, but for those that needed them, were finished first.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(workers or cores, max(1, len(cells)))
    order = _chain_costs(cells)
    waiting = sorted(cells, key=lambda cell: -order[cell.name])
    results: dict[str, Any] = {}
    failed: dict[str, BaseException] = {}
    running: dict[Future[Any], Cell] = {}
    context = multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    bar = _Bar(cells, reports, description)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(reports,))
    try:
        while waiting or running:
            if any(isinstance(error, BrokenProcessPool) for error in failed.values()):
                break  # a worker was killed, for want of memory perhaps, and took the pool with it
            ready = [cell for cell in waiting if all(name in results for name in cell.needs)]
            for cell in ready[: workers - len(running)]:
                waiting.remove(cell)
                running[pool.submit(_run_cell, cell)] = cell
            if not running:
                break  # what is left needs a cell that failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                if (error := future.exception()) is not None:
                    failed[cell.name] = error
                else:
                    results[cell.name] = future.result()
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        bar.close()
    if failed:
        name, error = next(iter(failed.items()))
        skipped = f"; {len(waiting)} others were not begun" if waiting else ""
        raise ValueError(f"{len(failed)} of {len(cells)} runs failed{skipped}; first {name}: {error}") from error
    return results
