"""Readings: what each seed says of one number, and what all of them say together, with an interval.

What is not known is not guessed: a share of which nobody says how many rows it is of has no interval.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from ftmech_hf.analysis.revival import RevivalRatio, RevivalResult
from ftmech_hf.statistics.intervals import (
    Share,
    geometric_mean_interval,
    mean_interval,
    newcombe_difference,
    share_interval,
)
from ftmech_hf.statistics.seeds import share_over_seeds

Unit = Literal["%", "share", "x", "points", "steps", "neurons", "nats"]
Bound = Literal["", "at least", "at most", "unknown"]
Ends = tuple[float | None, float | None]
"""Of an interval; None where it is open."""


class Missing(Exception):
    """A run is not finished, so that what rests on it is left out."""


T = TypeVar("T")


class Reading(NamedTuple):
    """What one seed says.

    Attributes:
        value: in the unit of its claim.
        rows: of how many rows, if it is a share of rows.
        interval: of 95 %, over the rows of this seed, of what is no share.
        bound: what the value is where the truth was not reached, as by a run that was not back at its last step;
            ``unknown`` if it may be more or less, as the ratio of two such runs.
        floor: what the constant answer gets on the same rows.
        limits: what it cannot be below or above, as a difference of shares cannot; None where that is not known.
    """

    value: float
    rows: int | None = None
    interval: tuple[float, float] | None = None
    bound: Bound = ""
    floor: float | None = None
    limits: tuple[float, float] | None = None


def read(found: float | Reading) -> Reading:
    """A reading; a plain number is one of which no more is known."""
    return found if isinstance(found, Reading) else Reading(float(found))


_KNOWN = ("rows", "bound", "floor", "low", "high")
"""What a row of a table may say beside its value."""


def read_row(row: Mapping[Any, Any], whole: float = 1.0) -> Reading:
    """A reading from a row of a table: ``value``, and if known ``rows``, ``bound``, ``floor``, ``low`` and ``high``.

    Args:
        row: of the table.
        whole: what a value of 1 becomes.
    """
    known = {name: found for name in _KNOWN if not pd.isna(found := row.get(name))}
    ends = (whole * float(known["low"]), whole * float(known["high"])) if {"low", "high"} <= set(known) else None
    rows = int(known["rows"]) if "rows" in known else None
    floor = whole * float(known["floor"]) if "floor" in known else None
    return Reading(whole * float(row["value"]), rows=rows, interval=ends, bound=known.get("bound", ""), floor=floor)


def read_all(measures: Mapping[str, Callable[[T], Reading]], seed: T) -> dict[str, Reading]:
    """All measurements of a seed, by name; those that rest on a missing run are left out.

    Args:
        measures: name -> what reads it, or raises :class:`Missing`.
        seed: what they read.
    """
    found = {}
    for name, measure in measures.items():
        with contextlib.suppress(Missing):
            found[name] = measure(seed)
    return found


def difference(first: Reading, second: Reading) -> Reading:
    """Points between two shares in per cent, by Newcombe's way: of their own intervals, or else those of their rows.

    Of the same rows its interval is too wide: it takes them for different.
    """
    found = newcombe_difference(*(Share(each.value, *_ends(each)) for each in (first, second)))
    return Reading(found.value, interval=(found.low, found.high), limits=(-100.0, 100.0))


def weighted(*terms: tuple[float, Reading]) -> Reading:
    """A weighted sum of shares in per cent, or of differences of them, in points.

    Its interval is that of Zou and Donner (2008), of their own or those of their rows, which it takes for different.
    """
    value = below = above = 0.0
    for weight, found in terms:
        middle, ends = weight * found.value, [weight * end for end in _ends(found)]
        value += middle
        below += (middle - min(ends)) ** 2
        above += (max(ends) - middle) ** 2
    low, high = value - math.sqrt(below), value + math.sqrt(above)
    known = [(weight, limits) for weight, found in terms if (limits := _limits(found))]
    if len(known) < len(terms):
        return Reading(value, interval=(low, high))
    reach = [sorted((weight * least, weight * most)) for weight, (least, most) in known]
    least, most = (sum(each) for each in zip(*reach, strict=True))
    return Reading(value, interval=(max(least, low), min(most, high)), limits=(least, most))


def _limits(found: Reading) -> tuple[float, float] | None:
    """Those of a reading, or of a share of rows in per cent; None of what may be anything."""
    return found.limits or ((0.0, 100.0) if found.rows or found.interval is None else None)


def _ends(share: Reading) -> tuple[float, float]:
    """The 95 % interval of a share in per cent; all there can be where nobody says of how many rows it is."""
    if share.interval is not None:
        return share.interval
    if not share.rows:
        return 0.0, 100.0
    _, low, high = share_interval(round(share.value / 100 * share.rows), share.rows)
    return 100 * low, 100 * high


def of_revival(found: RevivalResult) -> Reading:
    """Steps to revival, or at least so many; its interval begins at the evaluation before, where it was not back."""
    ends = found.ends and (float(found.ends[0]), float(found.ends[1]))
    return Reading(float(found.at_least), interval=ends, bound="at least" if found.steps is None else "")


def of_ratio(found: RevivalRatio) -> Reading:
    """How many times as many steps, or a bound on it."""
    bounds: dict[tuple[bool, bool], Bound] = {(False, False): "", (True, False): "at least", (False, True): "at most"}
    bound = bounds.get((found.at_least, found.at_most), "unknown")
    return Reading(found.value, interval=found.ends, bound=bound)


def over_seeds(readings: Sequence[Reading], unit: Unit) -> tuple[float, Ends | None]:
    """(the mean over seeds, its 95 % interval or None).

    - ``%`` and ``share``: of rows within seeds, by the two levels of
      :func:`~ftmech_hf.statistics.seeds.share_over_seeds`; wider where a seed is less sure than its rows.
    - ``x`` and ``steps``: the geometric mean, with Student's t on the logarithm; below one step counts as one.
    - ``points``, ``neurons``, ``nats``: Student's t over seeds, never below zero where nothing is, and of points never
      beyond what differences of shares can be, where readings know it.

    Numbers that are counted on a grid, as steps and neurons are, may be the same of all seeds, which does not say that
    the next one's will be: without intervals of their own such readings have none.

    Where each seed has an interval of its own, that of the mean is never narrower than those put together, and a single
    seed has its own. Readings that are ``at least`` count with what they reached: the mean of the truth is at least
    that high, so that the lower end stands and the upper one is open; ``at most`` is the mirror image. (What is
    averaged is then capped at the last step; the mean of what is not can only be higher.)
    """
    values = [each.value for each in readings]
    if unit in ("%", "share"):
        return _share(readings, 100.0 if unit == "%" else 1.0)
    if ratio := unit in ("x", "steps"):
        values = [max(value, 1.0) if unit == "steps" else value for value in values]
        measured, low, high = geometric_mean_interval(values)
    else:
        measured, low, high = mean_interval(values)
    if unit == "steps":
        readings = [_at_least_one(each) for each in readings]
    apart = _of_rows(readings, measured, ratio)
    if apart is None and (len(values) == 1 or (low == high and not any(each.bound for each in readings))):
        return measured, None
    if apart is not None:
        low, high = apart if len(values) == 1 else (min(low, apart[0]), max(high, apart[1]))
    if min(values) >= 0 and unit != "points":
        low = max(0.0, low)
    known = [each.limits for each in readings if each.limits is not None]
    if unit == "points" and len(known) == len(readings):
        low, high = max(low, min(least for least, _ in known)), min(high, max(most for _, most in known))
    return measured, _open(readings, low, high)


def _at_least_one(steps: Reading) -> Reading:
    """The same, in which less than a step counts as one, in its interval too."""
    ends = steps.interval and (max(steps.interval[0], 1.0), max(steps.interval[1], 1.0))
    return steps._replace(value=max(steps.value, 1.0), interval=ends)


def _share(readings: Sequence[Reading], whole: float) -> tuple[float, Ends | None]:
    measured = float(np.mean([each.value for each in readings]))
    rows = [each.rows for each in readings if each.rows is not None]
    if len(rows) < len(readings):
        own = _of_rows(readings, measured, ratio=False)
        return measured, own and _open(readings, max(0.0, own[0]), min(whole, own[1]))
    counts = [(round(each.value / whole * number), number) for each, number in zip(readings, rows, strict=True)]
    _, low, high = share_over_seeds(counts)
    low, high = min(whole * low, measured), max(whole * high, measured)
    if any(_is_less_sure(each, whole) for each in readings) and (own := _of_rows(readings, measured, ratio=False)):
        low, high = max(0.0, min(low, own[0])), min(whole, max(high, own[1]))
    return measured, _open(readings, low, high)


def _is_less_sure(share: Reading, whole: float) -> bool:
    """Whether a share's own interval is wider than that of its rows, as where random choices were made on them."""
    assert share.rows
    _, low, high = share_interval(round(share.value / whole * share.rows), share.rows)
    return share.interval is not None and (
        share.interval[0] < whole * low - 1e-9 or share.interval[1] > whole * high + 1e-9
    )


def _of_rows(readings: Sequence[Reading], measured: float, ratio: bool) -> tuple[float, float] | None:
    """The intervals of the seeds' own rows put together (Zou and Donner); None if one has none."""
    ends = [each.interval for each in readings if each.interval is not None]
    if len(ends) < len(readings):
        return None
    there, back = (lambda x: math.log(max(x, 1e-12)), math.exp) if ratio else (float, float)
    below = math.hypot(*(there(each.value) - there(low) for each, (low, _) in zip(readings, ends, strict=True)))
    above = math.hypot(*(there(high) - there(each.value) for each, (_, high) in zip(readings, ends, strict=True)))
    return back(there(measured) - below / len(ends)), back(there(measured) + above / len(ends))


def _open(readings: Sequence[Reading], low: float, high: float) -> Ends:
    bounds = {each.bound for each in readings}
    return None if bounds & {"at most", "unknown"} else low, None if bounds & {"at least", "unknown"} else high


def table_over_seeds(
    table: pd.DataFrame, keys: Sequence[str], unit: Unit | Callable[[Mapping[Any, Any]], Unit]
) -> pd.DataFrame:
    """:func:`over_seeds` of the column ``value``, for every value of some columns.

    Args:
        table: ``keys`` and ``value``, one number a row; and where it has them what else :func:`read_row` knows.
        keys: columns whose every combination is one number over seeds.
        unit: of the numbers; or what it is of the number that a row belongs to.

    Returns:
        ``keys``, ``n`` (how many seeds), ``mean``, ``low`` and ``high``, which are nan where there is no interval and
        infinite where it is open.
    """
    found, rows = [], dict[int, list[dict[Any, Any]]]()
    numbers = table.groupby(list(keys), sort=False, dropna=False).ngroup()
    for number, row in zip(numbers, table.to_dict("records"), strict=True):  # a table of its own for each takes longer
        rows.setdefault(number, []).append(row)
    for group in rows.values():
        readings = [read_row(row) for row in group]
        measured, interval = over_seeds(readings, unit if isinstance(unit, str) else unit(group[0]))
        low, high = (math.nan, math.nan) if interval is None else interval
        ends = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
        labels: dict[str, Any] = {key: group[0][key] for key in keys}
        found.append({**labels, "n": len(readings), "mean": measured, **ends})
    return pd.DataFrame(found, columns=[*keys, "n", "mean", "low", "high"])
