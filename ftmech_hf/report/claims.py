"""Claims: what the paper says, what we measured over seeds, and whether our bar is met.

A bar is set before the runs and belongs to the scale: the nano scale is far smaller than the paper's model, so the
paper's figure stands beside ours for comparison and is not the bar. A claim holds if the mean over seeds meets the bar.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ftmech_hf.statistics.intervals import mean_interval


class Measurement(NamedTuple):
    """One number per seed, and how to read it."""

    id: str
    statement: str
    unit: Literal["%", "x", "points", "steps", "neurons"]
    paper: str = "not reported"
    bar: str = ""
    """``>= 99`` or ``<= 40``; empty for what is reported without a verdict."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A measurement over seeds.

    Attributes:
        id, statement, paper, bar: see :class:`Measurement`.
        measured: mean over seeds.
        interval: 95 % Student t interval of the mean over seeds; None for a single seed.
        holds: whether the mean meets the bar; None without a bar, or if a seed is missing.
        seeds: those that measured it.
        values: one number per seed.
        unit: of all numbers.
    """

    id: str
    statement: str
    paper: str
    measured: float
    interval: tuple[float, float] | None
    bar: str
    holds: bool | None
    seeds: list[int]
    values: list[float]
    unit: str


def meets(value: float, bar: str) -> bool:
    """Whether a value meets a bar such as ``>= 99``."""
    sign, number = bar.split()
    return {">=": value >= float(number), "<=": value <= float(number)}[sign]


def seed_interval(values: Sequence[float], *, unit: str) -> tuple[float, float] | None:
    """95 % Student t interval of a mean over seeds, cut to what the unit allows; None if there is only one.

    A unit is ``%``, ``share`` (0 to 1), ``points`` (any number), or what is not negative.
    """
    if len(values) < 2:
        return None
    _, low, high = mean_interval(values)
    ceiling = {"%": 100.0, "share": 1.0}.get(unit, math.inf)
    floor = -math.inf if unit == "points" else 0.0
    return max(floor, low), min(ceiling, high)


def over_seeds(table: pd.DataFrame, keys: Sequence[str], unit: str | Callable[[pd.DataFrame], str]) -> pd.DataFrame:
    """Mean and 95 % Student t interval over seeds of the column ``value``, for every value of some columns.

    Args:
        table: ``keys`` and ``value``, one number a row; and ``low`` and ``high`` if a single seed has an interval of
            its own, which is kept where there is only one.
        keys: columns whose every combination is one number over seeds.
        unit: see :func:`seed_interval`; or what it is of the rows of one number.

    Returns:
        ``keys``, ``n`` (how many seeds), ``mean``, ``low`` and ``high``, which are nan where there is no interval.
    """
    rows = []
    for key, group in table.groupby(list(keys), sort=False, dropna=False):
        values = group["value"].astype(float).tolist()
        interval = seed_interval(values, unit=unit if isinstance(unit, str) else unit(group))
        if interval is None and "low" in group:
            interval = float(group["low"].iloc[0]), float(group["high"].iloc[0])
        low, high = interval or (float("nan"), float("nan"))
        found = {"n": len(values), "mean": sum(values) / len(values), "low": low, "high": high}
        rows.append({**dict(zip(keys, key, strict=True)), **found})
    return pd.DataFrame(rows, columns=[*keys, "n", "mean", "low", "high"])


def judge(
    measurements: Sequence[Measurement],
    by_seed: Mapping[int, Mapping[str, float]],
    alone: Mapping[str, tuple[float, float] | None] | None = None,
) -> list[Claim]:
    """Turn the measurements of every seed into claims, in the order of ``measurements``.

    What no seed measured is left out. What some seeds lack is reported over the others and not judged: those that are
    there may be the ones that went well.

    Args:
        measurements: what is claimed.
        by_seed: seed -> id -> number.
        alone: id -> the interval that a single seed allows, of rows or stories; there is none if it is not given.
    """
    claims = []
    for measurement in measurements:
        values = {seed: float(found[measurement.id]) for seed, found in by_seed.items() if measurement.id in found}
        if not values:
            continue
        mean = float(np.mean(list(values.values())))
        judged = bool(measurement.bar) and len(values) == len(by_seed)
        claims.append(
            Claim(
                id=measurement.id,
                statement=measurement.statement,
                paper=measurement.paper,
                measured=mean,
                interval=seed_interval(list(values.values()), unit=measurement.unit)
                if len(values) > 1
                else (alone or {}).get(measurement.id),
                bar=measurement.bar,
                holds=meets(mean, measurement.bar) if judged else None,
                seeds=list(values),
                values=list(values.values()),
                unit=measurement.unit,
            )
        )
    return claims


def read_claims(folder: Path) -> list[Claim]:
    """The claims that a study left in a folder of results, in ``claims.json``."""
    return [Claim(**each) for each in json.loads((folder / "claims.json").read_text(encoding="utf-8"))]


def claims_json(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The claims that have a bar, as plain values."""
    return [asdict(claim) for claim in claims if claim.bar]
