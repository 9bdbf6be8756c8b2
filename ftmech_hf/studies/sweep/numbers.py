"""The numbers that each stage of a sweep gives, read from its runs, with the floors of the test sets they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from ftmech_hf.analysis.forgetting import measure_forgetting
from ftmech_hf.jobs.training_card import read_revival
from ftmech_hf.report.readings import Reading, of_revival, read
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.floors import lead
from ftmech_hf.statistics.intervals import difference_of_shares

SAID = ("step", "value", "rows", "bound", "n", "mean", "low", "high", "floor", "lead")
"""Columns of a table of numbers, or of its summary, that say what was measured when; the others say of which run."""

Numbers = Iterator[tuple[float | None, str, float | Reading]]
"""(step or nothing, metric, value)"""


def _share(run: FinishedRun, value: float, rows: int, test_set: str) -> Reading:
    """A share of right answers, with the floor of its test set."""
    return Reading(value, rows=rows, floor=run.floor(test_set, rows))


def _rows(line: Mapping[str, Any], test_set: str) -> int:
    """How many rows of a test set were asked: of some there are more than of the others, see ``eval_near``."""
    return int(line.get(f"eval_rows/{test_set}", line["eval_rows"]))


def _finetuning_numbers(run: FinishedRun) -> Numbers:
    yield from _training_numbers(run)
    first, last = run.metrics[0], run.metrics[-1]
    for row in measure_forgetting(run.metrics).rows():
        ends = ((row[end], _rows(line, row["test_set"])) for end, line in (("after", last), ("before", first)))
        found = difference_of_shares(*((round(share * rows), rows) for share, rows in ends))
        yield None, f"change/{row['test_set']}", Reading(row["change"], interval=(found.low, found.high))


def _training_numbers(run: FinishedRun) -> Numbers:
    for line in run.metrics:
        for key, value in line.items():
            if key.startswith(("accuracy/", "loss/")):
                name, is_share = key.removeprefix("accuracy/"), key.startswith("accuracy/")
                yield line["step"], name, _share(run, value, _rows(line, name), name) if is_share else value


def _reverse_numbers(run: FinishedRun) -> Numbers:
    yield from _training_numbers(run)
    _, capability, _ = next(_training_numbers(run))
    if capability.startswith("loss/"):
        return  # of stories: there is no share of right answers to come back
    revival = read_revival(run, capability)
    yield None, "steps_to_revival", of_revival(revival)
    yield None, "revived", Reading(float(revival.steps is not None), rows=1)
    yield None, "revival_area", revival.area


def _pruning_numbers(run: FinishedRun) -> Numbers:
    summary = run.summary
    for name, value in summary["accuracy_by_set"].items():
        yield None, f"pruned/{name}", _share(run, value, summary["rows"], name)
    ends = summary["random_low"], summary["random_high"]  # over masks and rows
    yield None, "pruned/random", Reading(summary["random_accuracy"], rows=summary["random_rows"], interval=ends)
    yield None, "pruned/neurons", summary["best_k"]


def _probing_numbers(run: FinishedRun) -> Numbers:
    for name, found in run.summary.items():
        for kind in ("accuracy", "majority", "shuffled"):
            share = _share(run, found[kind], found["num_test"], str(found["label"]))
            yield None, f"probe/{name}/{kind}", share if kind == "accuracy" else share._replace(floor=None)
    if {"base", "finetuned"} <= set(run.summary):
        lost = run.summary["base"]["over_finetuned"]  # of the same rows
        yield None, "change/probe", Reading(-lost["value"], interval=(-lost["high"], -lost["low"]))
    table = run.table
    table = table[table["label"] == table["label"].iloc[0]]  # of several labels the first is the pretraining operand's
    for name, rows in table.groupby("model", sort=False):
        for place, (there, number) in enumerate(zip(rows["accuracy"], rows["num_test"], strict=True)):
            yield float(place), f"read/{name}", _share(run, there, number, str(table["label"].iloc[0]))


def _interpolation_numbers(run: FinishedRun) -> Numbers:
    table = run.table.set_index("alpha")
    for name, column in table.items():
        for alpha, value in column.items():
            yield float(str(alpha)), str(name), _share(run, value, run.config["eval_rows"], str(name))


READERS: dict[str, Callable[[FinishedRun], Numbers]] = {
    "finetune": _finetuning_numbers,
    "reverse": _reverse_numbers,
    "prune": _pruning_numbers,
    "probe": _probing_numbers,
    "interpolate": _interpolation_numbers,
}


def after_last_step(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each run after its own last step, and those of no step: runs of a grid may differ in steps.

    Args:
        table: of :func:`stage_rows` with columns that say which run a row is of, or its summary over seeds.
    """
    apart = [name for name in table.columns if name not in SAID]
    last = table.groupby(apart, sort=False, dropna=False)["step"].transform("max") if len(table) else table["step"]
    return table[table["step"].isna() | (table["step"] == last)]


def stage_rows(stage: str, run: FinishedRun) -> list[dict[str, Any]]:
    """The numbers of one run: ``step``, ``metric``, ``value``, and ``rows``, ``bound`` and ``floor`` of its reading.

    ``low`` and ``high`` are its 95 % interval over rows, where it is no share of rows but made of some. Of a share
    whose floor is known ``lead`` says how much it is of what is above that.

    Training runs give the accuracies of every evaluation by the names of their test sets, and losses in nats per token
    with ``loss/`` before them; fine-tuning also their changes from its first step to its last (negative: forgotten;
    their intervals take the rows of the two for different ones), and reversals the steps to revival. Pruning and
    probing give the numbers of their summaries, and probing the accuracy at every site, where ``step`` is the number of
    blocks passed; along an interpolation ``step`` is alpha.
    """
    numbers = READERS.get(stage, _training_numbers)(run)
    return [
        {
            "step": step, "metric": metric, "value": found.value, "rows": found.rows, "bound": found.bound,
            "floor": found.floor, "lead": None if found.floor is None else lead(found.value, found.floor),
            **dict(zip(("low", "high"), found.interval or (None, None), strict=True)),
        }
        for step, metric, value in numbers
        for found in [read(value)]
    ]  # fmt: skip
