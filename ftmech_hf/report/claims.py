"""Claims: what the paper says, what we measured over seeds, and whether our bar is met.

A bar is set before the runs and belongs to the scale: the nano scale is far smaller than the paper's model, so the
paper's figure stands beside ours for comparison and is not the bar. A claim has one of three verdicts. It **holds** if
the nearer end of its 95 % interval is beyond the bar, **fails** if the farther end is short of it, and is **undecided**
while the bar lies inside, or while there is no interval. With a single seed the interval is that of its rows, and says
nothing about other seeds. A claim that would hold is **withdrawn** if one of its controls fails: what it says has then
been found where it must not be. One that holds while a control is undecided says so: it may have been found there.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ftmech_hf.report.readings import Ends, Reading, Unit, over_seeds, read
from ftmech_hf.statistics.intervals import share_interval

Verdict = Literal["holds", "fails", "undecided", "withdrawn"]
SIGNS: dict[str, str] = {"holds": "✓", "fails": "✗", "undecided": "?", "withdrawn": "⊘"}
"""What stands beside the word of a verdict wherever it is shown."""


UNMEASURED = "not measured by anyone"
"""What stands for the paper's figure where nobody has one, as far as we know."""
SEEN = "Made after looking"
"""How the statement of a claim begins that was made, or whose bar was set, when the results had been seen."""


class Measurement(NamedTuple):
    """What is measured once a seed, and how to read it."""

    id: str
    statement: str
    unit: Unit
    paper: str = "not reported"
    bar: str = ""
    """``>= 99`` or ``<= 40``; empty for what is reported without a verdict."""
    controls: tuple[str, ...] = ()
    """Ids of the claims without which this one says nothing: if one of them fails, this one does not hold."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A measurement over seeds.

    Attributes:
        id, statement, paper, bar: see :class:`Measurement`.
        measured: mean over seeds, geometric of ratios and steps.
        interval: of 95 %, see :func:`ftmech_hf.report.readings.over_seeds`; an end is None where it is open, as above
            what a run that stopped before it was back is known to exceed. None if there is none.
        verdict: None without a bar, or if a seed is missing, or a control without which it would hold.
        seeds: those that measured it.
        floor: what the constant answer gets on the same rows, in the unit of the claim, mean over seeds; None where
            that is no question.
        values: one number per seed.
        unit: of all numbers.
        withdrawn_by: ids of its controls that fail, if it would hold without them; named in the file if there are any.
        unmeasured: ids of its controls that some seed lacks, or all, the same.
        open_controls: ids of its controls that are undecided, of one that holds, the same.
    """

    id: str
    statement: str
    paper: str
    measured: float
    interval: Ends | None
    bar: str
    verdict: Verdict | None
    seeds: list[int]
    floor: float | None
    values: list[float]
    unit: str
    withdrawn_by: list[str] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    open_controls: list[str] = field(default_factory=list)

    @property
    def stood(self) -> bool:
        """Whether it holds, and all its controls do: what is said elsewhere may rest on it."""
        return self.verdict == "holds" and not self.open_controls


def decide(interval: Ends | None, bar: str) -> Verdict:
    """The verdict of an interval on a bar such as ``>= 99``, which what is equal to it meets.

    Args:
        interval: its ends, None where one is open; None without one, which decides nothing.
        bar: a sign and a number.
    """
    sign, text = bar.split()
    assert sign in (">=", "<="), bar
    number, (low, high) = float(text), interval or (None, None)
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if sign == "<=":
        number, low, high = -number, -high, -low
    number -= 1e-9 * abs(number)  # a mean of logarithms of what is equal to a bar is not quite equal to it
    return "holds" if low >= number else "fails" if high < number else "undecided"


def judge(measurements: Sequence[Measurement], by_seed: Mapping[int, Mapping[str, float | Reading]]) -> list[Claim]:
    """Turn the measurements of every seed into claims, in the order of ``measurements``.

    What no seed measured is left out. What some seeds lack is reported over the others and not judged: those that are
    there may be the ones that went well.

    Args:
        measurements: what is claimed.
        by_seed: seed -> id -> reading; a plain number is one whose rows are not known.
    """
    claims = []
    for measurement in measurements:
        found = {seed: read(each[measurement.id]) for seed, each in by_seed.items() if measurement.id in each}
        if not found:
            continue
        readings = list(found.values())
        measured, interval = over_seeds(readings, measurement.unit)
        judged = bool(measurement.bar) and len(found) == len(by_seed)
        floors = [each.floor for each in readings if each.floor is not None]
        claims.append(
            Claim(
                id=measurement.id,
                statement=measurement.statement,
                paper=measurement.paper,
                measured=measured,
                interval=interval,
                bar=measurement.bar,
                verdict=decide(interval, measurement.bar) if judged else None,
                seeds=list(found),
                floor=sum(floors) / len(floors) if len(floors) == len(readings) else None,
                values=[each.value for each in readings],
                unit=measurement.unit,
            )
        )
    return withdraw(claims, {each.id: each.controls for each in measurements})


def judge_pairs(
    measurement: Measurement, found: float, interval: tuple[float, float], seeds: Sequence[int], *, whole: bool = True
) -> Claim:
    """A claim about pairs of all seeds together, whose interval is over them.

    Args:
        measurement: what is claimed.
        found: in its unit.
        interval: of 95 %, in its unit.
        seeds: of the pairs.
        whole: whether all runs that it is of are there; if not it is not judged, see :func:`judge`.
    """
    return Claim(
        id=measurement.id, statement=measurement.statement, paper=measurement.paper, measured=found, interval=interval,
        bar=measurement.bar, verdict=decide(interval, measurement.bar) if whole else None, seeds=list(seeds),
        floor=None, values=[found], unit=measurement.unit,
    )  # fmt: skip


def least_number(measurement: Measurement) -> int:
    """Of how many pairs a share must be for its claim to be able to hold, which it then does if all are as they should.

    Args:
        measurement: whose bar is of a share, neither 0 nor 1.
    """
    sign, text = measurement.bar.split()
    share = float(text) / (100 if measurement.unit == "%" else 1)
    wrong = share if sign == "<=" else 1 - share
    assert 0 < wrong < 1, measurement.bar
    return next(number for number in itertools.count(1) if share_interval(0, number).high <= wrong)


def say_too_few(measurement: Measurement, number: int) -> str | None:
    """That a claim cannot hold whatever comes out, of so few pairs or others; None if it can, or if there are none."""
    needed = least_number(measurement)
    said = f"too few: of {number} cases it cannot hold, whatever comes out; it would take {needed}"
    return said if 0 < number < needed else None


def withdraw(claims: Sequence[Claim], controls: Mapping[str, Sequence[str]]) -> list[Claim]:
    """The same claims, of which those that hold and have a control that fails are withdrawn.

    A control fails by its own interval, and not because a control of its own was withdrawn. One that holds and has a
    control that was not measured, as its run failed, is not judged: nobody knows whether it would be withdrawn. One
    whose control is undecided holds, and says of which.

    Args:
        claims: with their verdicts.
        controls: id of a claim -> ids of its controls, which have bars.
    """
    named = {name for each in controls.values() for name in each}
    assert named <= set(controls), sorted(named - set(controls))
    verdicts = {claim.id: claim.verdict for claim in claims}
    found = []
    for claim in claims:
        of_these = controls.get(claim.id, ()) if claim.verdict == "holds" else ()
        fail = [name for name in of_these if verdicts.get(name) == "fails"]
        unknown = [name for name in of_these if verdicts.get(name) is None]
        if fail:
            found.append(replace(claim, verdict="withdrawn", withdrawn_by=fail))
        elif unknown:
            found.append(replace(claim, verdict=None, unmeasured=unknown))
        else:
            found.append(replace(claim, open_controls=[name for name in of_these if verdicts[name] == "undecided"]))
    return found


def leaning(claims: Sequence[Claim | Measurement]) -> dict[str, Claim | Measurement]:
    """Id of each claim that says "the same" -> the last one before it that does not, without which it says nothing.

    Args:
        claims: of a study, in their order.
    """
    found, last = {}, None
    for each in claims:
        if not re.search(r"\bthe same\b", each.statement, re.IGNORECASE):
            last = each
        elif last is not None:
            found[each.id] = last
    return found


def name_claims(claims: Sequence[Claim | Measurement]) -> dict[str, str]:
    """Id of each claim -> its statement, behind that of the one that it leans on, see :func:`leaning`."""
    before = leaning(claims)
    return {
        each.id: f"{before[each.id].statement}. {each.statement}" if each.id in before else each.statement
        for each in claims
    }


def read_claims(folder: Path) -> list[Claim]:
    """The claims that a study left in a folder of results, in ``claims.json``.

    Raises:
        ValueError: an older version wrote them, which judged by means.
    """
    found = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    names = {each.name for each in fields(Claim)}
    needed = {each.name for each in fields(Claim) if each.default_factory is MISSING}
    if any(not needed <= set(each) <= names for each in found):
        raise ValueError(
            f"{folder / 'claims.json'}: written by another version; run the study again, its runs are kept"
        )
    return [Claim(**{**each, "interval": each["interval"] and tuple(each["interval"])}) for each in found]


def claims_json(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """The claims that have a bar, as plain values."""
    written = [asdict(claim) for claim in claims if claim.bar]
    optional = ("withdrawn_by", "unmeasured", "open_controls")
    return [{key: value for key, value in each.items() if key not in optional or value} for each in written]
