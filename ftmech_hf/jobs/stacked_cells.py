"""Which cells of a plan are trained together: those that fine-tune become one cell for several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.stacked import StackedRun, finetune_together
from ftmech_hf.jobs.training import finetune


def stack_cells(cells: Sequence[Cell], size: int, kind_of: Callable[[Cell], str]) -> list[Cell]:
    """Put cells that fine-tune into stacks of at most ``size``; other cells stay as they are.

    Args:
        cells: in an order in which needs come first; a stack must not need one of its own cells, which
            ``kind_of`` keeps apart.
        size: runs of a stack.
        kind_of: a word for what may be trained together.
    """
    alone = [cell for cell in cells if cell.function is not finetune]
    kinds: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.function is finetune:
            kinds.setdefault(kind_of(cell), []).append(cell)
    stack_of: dict[str, str] = {}
    stacks = []
    for kind, members in kinds.items():
        for first in range(0, len(members), size):
            group = members[first : first + size]
            name = f"{kind} {first // size + 1}"
            stack_of |= {cell.name: name for cell in group}
            runs = [StackedRun(**{key: cell.kwargs[key] for key in StackedRun._fields}) for cell in group]
            needs = tuple(dict.fromkeys(need for cell in group for need in cell.needs))
            stacks.append(Cell(name, finetune_together, {"runs": runs}, sum(cell.cost for cell in group), needs))
    joined = [*stacks, *alone]
    return _in_order([
        dataclasses.replace(cell, needs=tuple(dict.fromkeys(stack_of.get(need, need) for need in cell.needs)))
        for cell in joined
    ])  # fmt: skip


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """Cells so that each comes after what it needs."""
    left, ordered, names = list(cells), list[Cell](), {cell.name for cell in cells}
    while left:
        done = {cell.name for cell in ordered}
        ready = [cell for cell in left if all(need in done or need not in names for need in cell.needs)]
        assert ready, "cells need one another in a circle"
        ordered += ready
        left = [cell for cell in left if cell not in ready]
    return ordered
