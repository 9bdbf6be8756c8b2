"""Which cells of a plan are trained together: those that train become one cell for several runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from ftmech_hf.config import config_hash
from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.stacked import train_together
from ftmech_hf.jobs.stacked_run import OWN, StackedRun, has_rows_of_one_shape, why_not_together
from ftmech_hf.jobs.training import PretrainConfig, finetune, pretrain
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig

TRAINS = (pretrain, finetune)


def stack_cells(cells: Sequence[Cell], size: int, kind_of: Callable[[Cell], str]) -> list[Cell]:
    """Put cells that train into stacks of at most ``size``; other cells stay as they are.

    Args:
        cells: in an order in which needs come first; a stack must not need one of its own cells, which
            ``kind_of`` keeps apart.
        size: runs of a stack.
        kind_of: a word for what may be trained together; empty for a cell that stays alone.
    """
    kinds: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.function in TRAINS and (kind := kind_of(cell)):
            kinds.setdefault(kind, []).append(cell)
    stack_of: dict[str, str] = {}
    stacks = []
    for kind, members in kinds.items():
        for first in range(0, len(members), size):
            group = members[first : first + size]
            assert all(cell.kwargs.get("adapter") in (None, AdapterConfig()) for cell in group), kind
            name = f"{kind} {first // size + 1}"
            stack_of |= {cell.name: name for cell in group}
            runs = [StackedRun._make(cell.kwargs.get(key) for key in StackedRun._fields) for cell in group]
            needs = tuple(dict.fromkeys(need for cell in group for need in cell.needs))
            stacks.append(Cell(name, train_together, {"runs": runs}, sum(cell.cost for cell in group), needs))
    joined = [*stacks, *(cell for cell in cells if cell.name not in stack_of)]
    return _in_order([
        dataclasses.replace(cell, needs=tuple(dict.fromkeys(stack_of.get(need, need) for need in cell.needs)))
        for cell in joined
    ])  # fmt: skip


def kind_to_stack(cell: Cell, shape_of: Callable[[Cell], Any]) -> str:
    """A word for what a cell can be trained together with, by its settings: all but model, task, rate and seed.

    Empty for one that is trained alone: with dropout, with an adapter, or a part of its model alone.

    Args:
        cell: of a plan.
        shape_of: the shape of a cell's model, where it is known, and None where it is not.
    """
    train, shape = cell.kwargs["train"], shape_of(cell)
    adapter = cell.kwargs.get("adapter")
    if shape is None or why_not_together(train) or adapter not in (None, AdapterConfig()):
        return ""
    config, task = cell.kwargs["config"], cell.kwargs["task"]
    if getattr(config, "dropout", 0.0) or not has_rows_of_one_shape(task):
        return ""
    stage = "pretrain" if isinstance(config, PretrainConfig) else config.kind
    settings = dataclasses.replace(train, **{name: getattr(TrainConfig(), name) for name in OWN})
    alike = (shape, settings, cell.kwargs.get("objective"), task.row_length, sorted(task.test_tasks()))
    return f"{stage} {config_hash({'alike': repr(alike)})[:6]}"


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
