"""What the training of a plan would take in weights, memory and operations: from its settings, no weight is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.plan import Plan
from ftmech_hf.jobs.training import PretrainConfig
from ftmech_hf.models.memory import made_of_nothing, say_bytes, training_bytes, weight_bytes
from ftmech_hf.models.presets import Preset, model_config
from ftmech_hf.report.console import print_run
from ftmech_hf.runs import FinishedRun
from ftmech_hf.training.cost_estimate import training_flops
from ftmech_hf.training.objectives import OBJECTIVES

Size = tuple[Preset, int]
"""The shape of a model, and how many words it knows."""


class _Length(NamedTuple):
    """How long a training is: steps, rows of a step, how many of them go through the model at once, tokens of a row,
    rows shown for each, and whether the start is kept beside the model.
    """

    steps: int
    rows: int
    at_once: int
    tokens: int
    pairs: int
    compares: bool


def describe_sizes(plan: Plan, trained: Sequence[Cell]) -> list[str]:
    """A line for every size of model that is trained from nothing, and below it one for every length of training.

    Memory is that of the weights, their gradients and AdamW's two moments in float32, of what is kept for the backward
    pass of the rows that go through the model at once, and of a second copy of the weights where an objective compares
    with the start. Models that come from elsewhere, and text, whose rows have no fixed length, are left out.

    Args:
        plan: of the study.
        trained: its runs that train.
    """
    sizes = {cell.name: size for cell in trained if (size := _size_of(plan, cell)) is not None}
    lines = []
    for shape, words in dict.fromkeys(sizes.values()):
        config = model_config(shape, words)
        model = made_of_nothing(config)
        lines.append(
            f"{shape.n_layer} blocks, {shape.n_head} heads, width {shape.n_embd}, {words} words: "
            f"{model.num_parameters():,} parameters, {say_bytes(weight_bytes(config))} in float32"
        )
        alike: dict[_Length, int] = {}
        for cell in trained:
            if sizes.get(cell.name) == (shape, words):
                length = _length_of(cell)
                alike[length] = alike.get(length, 0) + 1
        for each, number in alike.items():
            copies = weight_bytes(config) * (2 if each.compares else 1)
            held = copies + training_bytes(config, each.at_once * each.pairs, each.tokens)
            shown = each.steps * each.rows * each.pairs * each.tokens
            lines.append(
                f"  {number} x {each.steps:,} steps of {each.rows} {'pairs' if each.pairs > 1 else 'rows'} of "
                f"{each.tokens} tokens{', beside the start' if each.compares else ''}: {shown:.2g} tokens, "
                f"{training_flops(model, shown):.2g} floating-point operations each, about {say_bytes(held)}"
            )
    return lines


def _size_of(plan: Plan, cell: Cell) -> Size | None:
    """Of the model that a run trains, which it or the first run of its chain makes; None if it is from elsewhere."""
    if not hasattr(cell.kwargs.get("task"), "row_length"):
        return None
    for name in (cell.name, *plan.needs_of(cell.name)):
        made = plan.called_with(name)
        if isinstance(made["config"], PretrainConfig):
            return made["config"].shape, len(made["task"].vocabulary)
    return None


def _length_of(cell: Cell) -> _Length:
    train, task = cell.kwargs["train"], cell.kwargs["task"]
    objective = cell.kwargs.get("objective") or OBJECTIVES[train.objective]()
    pairs = 2 if objective.needs == "pairs" else 1
    at_once = train.batch_size // train.gradient_accumulation_steps
    return _Length(train.steps, train.batch_size, at_once, task.row_length, pairs, objective.needs_reference)


def dry_run(plan: Plan, steps: int) -> None:
    """Say what all training of a plan would take: sizes, and time at the speed of some steps of its first run.

    Args:
        plan: of the study.
        steps: to make; of none there are sizes alone, and nothing is trained.

    Raises:
        ValueError: nothing is left to train.
    """
    trained = [cell for cell in plan.unfinished() if "train" in cell.kwargs]
    if not trained:
        raise ValueError("max_steps: nothing is left to train, so there is nothing to time")
    for line in describe_sizes(plan, trained):
        print(line)
    rows = [cell.kwargs["train"].steps * cell.kwargs["train"].batch_size for cell in trained]
    whole = f"{len(plan.folders)} runs, {len(trained)} of them to train: {sum(rows):,} rows"
    if not steps:
        print(f"{whole}; --max_steps 20 says how long that takes here")
        return
    train = trained[0].kwargs["train"]
    run = trained[0].function(**{**trained[0].kwargs, "train": dataclasses.replace(train, max_steps=steps)})
    print_run(run)
    projected = FinishedRun(run.path).env["projection"]
    hours = projected["seconds_per_step"] / train.batch_size * sum(rows) / 3600
    print(f"{whole}, {hours:.3g} hours")
