"""One run of many: what is to be called, what it needs before, and how a worker does it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ftmech_hf.config import in_one_line, tell
from ftmech_hf.runs import FolderInUse, InputsChanged
from ftmech_hf.training.memory import release_freed_memory

T = TypeVar("T")

POLL_SECONDS = 2.0
"""Between two looks at a run that another process is making."""


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


def make_again_if_changed(function: Callable[..., T], **kwargs: Any) -> T:
    """Call ``function``, and once more with ``fresh`` if what lies there was made from other inputs.

    That may be finished, or interrupted: what was made of other inputs is worth nothing to the run that is asked for.
    """
    try:
        return function(**kwargs)
    except InputsChanged:
        return function(**kwargs | {"config": dataclasses.replace(kwargs["config"], fresh=True)})


def _when_free(cell: Cell, progress: Callable[[int, int, str], None]) -> Any:
    """Make a cell's run; where another process is making it, wait for that, and find it.

    No other run is held meanwhile, so that no two processes wait for each other.
    """
    waits = False
    while True:
        try:
            return make_again_if_changed(cell.function, **cell.kwargs, progress=progress)
        except FolderInUse as error:
            if not waits:
                progress(0, 1, "waits for another process")
                tell(f"{cell.name}: {in_one_line(error)}; this one waits")
            waits = True
            time.sleep(POLL_SECONDS)


def run_cell(cell: Cell, reports: Any) -> Any:
    """Call a cell's function in this process, and put (name, share that is done, text) into a queue as it goes on.

    Where another process is making its run, this one waits for that.
    """
    last_report = 0.0

    def progress(step: int, steps: int, text: str) -> None:
        nonlocal last_report
        if text or time.monotonic() - last_report > 0.5:
            last_report = time.monotonic()
            reports.put((cell.name, step / max(steps, 1), text))  # a model that is not trained has no steps

    result = _when_free(cell, progress)
    release_freed_memory()  # another kind of cell may come next
    reports.put((cell.name, 1.0, ""))
    return result
