"""What a sweep's file expects: a claim is one number of a stage, at one point of the grid, with a bar."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from ftmech_hf.report.claims import Claim, Measurement, judge
from ftmech_hf.report.readings import Reading, Unit, read_row
from ftmech_hf.studies.sweep.numbers import after_last_step


@dataclass(frozen=True, kw_only=True)
class ExpectConfig:
    """One claim, as the file of a sweep states it before it is run.

    Attributes:
        id, statement, paper: what is claimed.
        stage, metric: the number, after the last step.
        bar: ``>= 80`` or ``<= 5``; in per cent or points, unless it is of a loss or counts something.
        only: axis -> its label, as far as the stage depends on it.
    """

    id: str
    statement: str
    metric: str
    bar: str
    stage: str = "finetune"
    paper: str = "not reported"
    only: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[<>]= -?\d+(\.\d+)?", self.bar):
            raise ValueError(f"claims: {self.id}: bar: {self.bar!r}, expected such as >= 80 or <= 5")


def judge_claims(
    expected: Sequence[ExpectConfig], table: pd.DataFrame, seeds: Sequence[int], unit_of: Callable[[str], Unit]
) -> list[Claim]:
    """Judge what a sweep's file expects, of the runs that are there.

    Args:
        expected: of the file.
        table: the tidy table of the sweep.
        seeds: all of them.
        unit_of: the unit of a metric.

    Raises:
        ValueError: a claim is about several points of the grid, or an axis that is none.
    """
    measurements: list[Measurement] = []
    found: dict[int, dict[str, Reading]] = {seed: {} for seed in seeds}
    for each in expected:
        unit = unit_of(each.metric)
        whole = 100.0 if unit in ("share", "points") else 1.0
        measurements.append(
            Measurement(each.id, each.statement, "%" if unit == "share" else unit, each.paper, each.bar)
        )
        rows = _rows(each, table)
        for seed, part in rows.groupby("seed"):
            readings = list(dict.fromkeys(read_row(row, whole) for row in part.to_dict("records")))
            if len(readings) > 1:
                raise ValueError(f"claims: {each.id}: only: {each.only}, but {len(readings)} points of the grid are so")
            found[int(str(seed))][each.id] = readings[0]
    return judge(measurements, found)


def _rows(expected: ExpectConfig, table: pd.DataFrame) -> pd.DataFrame:
    """What the runs say of a claim, after the last step."""
    rows = table[(table["stage"] == expected.stage) & (table["metric"] == expected.metric)]
    for axis, label in expected.only.items():
        if axis not in table:
            raise ValueError(f"claims: {expected.id}: only: unknown axis {axis!r}")
        rows = rows[rows[axis] == label]
    return after_last_step(rows)
