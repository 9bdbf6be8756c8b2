"""One run of many: what is to be called, what it needs before, and how a worker does it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ftmech_hf.runs import InputsChanged
from ftmech_hf.training.memory import release_freed_memory

T = TypeVar("T")


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


def run_cell(cell: Cell, reports: Any) -> Any:
    """Call a cell's function in this process, and put (name, share that is done, text) into a queue as it goes on."""
    last_report = 0.0

    def progress(step: int, steps: int, text: str) -> None:
        nonlocal last_report
        if text or time.monotonic() - last_report > 0.5:
            last_report = time.monotonic()
            reports.put((cell.name, step / max(steps, 1), text))  # a model that is not trained has no steps

    result = make_again_if_changed(cell.function, **cell.kwargs, progress=progress)
    release_freed_memory()  # another kind of cell may come next
    reports.put((cell.name, 1.0, ""))
    return result
