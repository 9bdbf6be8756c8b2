"""What one run says of the inside of a model that was tuned for safety: readings of its table, each one number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from ftmech_hf.report.readings import Missing, Reading, difference
from ftmech_hf.runs import FinishedRun

ATTACK_INSIDE = "co_text_2"
"""The attack whose prompts are looked for in the stream."""

FEWEST = 20
"""Attacks that succeeded, and that failed, of which a share is worth saying."""


def _one(table: pd.DataFrame, **wanted: object) -> dict[str, float]:
    """The only row with these values."""
    for name, value in wanted.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return {str(name): value for name, value in row.items()}


def _share(row: Mapping[str, float]) -> Reading:
    if not row["rows"]:
        raise Missing
    return Reading(100 * float(row["value"]), rows=int(row["rows"]))


def own_side(run: FinishedRun, kinds: str = "own") -> Reading:
    """Per cent of prompts that lie nearer to the mean of their own kind, as many safe as unsafe ones.

    The layer was chosen on other prompts. A model that has all of them on one side gets 50.

    With ``kinds`` "by chance", the means are of prompts that were dealt, and the sample is of as many draws: a draw has
    all prompts on one side at the worst, so that an interval of shares is no narrower than that of such means.
    """
    (safe, rows), (unsafe, others) = (_safe_side(run, kind, "all", kinds) for kind in ("safe", "unsafe"))
    return Reading((safe + 100 - unsafe) / 2, rows=rows if kinds == "by chance" else rows + others)


def attacks_apart(run: FinishedRun) -> Reading:
    """Points by which attacks that succeeded lie on the safe side more often than those that failed.

    Raises:
        Missing: fewer than :data:`FEWEST` of either.
    """
    sides = [_safe_side(run, ATTACK_INSIDE, answers) for answers in ("succeeded", "failed")]
    if min(rows for _, rows in sides) < FEWEST:
        raise Missing
    return difference(*(Reading(side, rows=rows) for side, rows in sides))


def _safe_side(run: FinishedRun, mixture: str, answers: str, kinds: str = "own") -> tuple[float, int]:
    row = _one(run.table, mixture=mixture, answers=answers, kinds=kinds, layer=run.summary["layer"])
    return 100 * float(row["safe_side"]), int(row["rows"])


def outside(run: FinishedRun) -> Reading:
    """Points by which more of a change's main directions, in squared length, lies outside than by chance."""
    rows = run.table[run.table["quantity"] == "weights"]
    return Reading(100 * float((rows["outside"] - rows["random_outside"]).mean()))


def _of_logs(value: float, variance: float) -> Reading:
    far = 1.96 * math.sqrt(variance)
    return Reading(math.exp(value), interval=(math.exp(value - far), math.exp(value + far)))


def action(run: FinishedRun, quantity: str = "action") -> Reading:
    """How many times as strongly a change acts on unsafe prompts as on safe ones, geometric means."""
    unsafe, safe = (_one(run.table, quantity=quantity, mixture=kind, answers="all") for kind in ("unsafe", "safe"))
    spread = sum(row["deviation"] ** 2 / row["rows"] for row in (unsafe, safe))
    return _of_logs(unsafe["value"] - safe["value"], spread)


def attacks_apart_by(run: FinishedRun, quantity: str) -> Reading:
    """A quantity on attacks that succeeded as a multiple of that on those that failed, geometric means.

    Raises:
        Missing: fewer than :data:`FEWEST` of either.
    """
    rows = [
        _one(run.table, quantity=quantity, mixture=ATTACK_INSIDE, answers=answers)
        for answers in ("succeeded", "failed")
    ]
    if min(row["rows"] for row in rows) < FEWEST:
        raise Missing
    return _of_logs(rows[0]["value"] - rows[1]["value"], sum(row["deviation"] ** 2 / row["rows"] for row in rows))


def sensitivity(run: FinishedRun, mixture: str) -> Reading:
    """The dependence on the input as a multiple of the base's on the same prompts, geometric mean."""
    row = _one(run.table, quantity="input gradient", mixture=mixture, answers="all")
    return _of_logs(row["value"], row["deviation"] ** 2 / row["rows"])


def first_tokens(run: FinishedRun) -> Reading:
    """The divergence in the first three tokens of unsafe answers, as a multiple of that in the nine others."""
    rows = run.table[(run.table["quantity"] == "divergence") & (run.table["mixture"] == "unsafe")]
    first = rows["token"] < 3
    return Reading(float(rows[first]["value"].sum() / rows[~first]["value"].sum()))


def _refused(run: FinishedRun, direction: str, alpha: float, split: str) -> Reading:
    """Refusals of attacks at a point, the mean over their kinds, with the rows of one.

    Raises:
        Missing: nothing was measured there.
    """
    table = run.table
    rows = table[(table["direction"] == direction) & (table["alpha"] == alpha) & (table["split"] == split)]
    rows = rows[~rows["mixture"].isin(["safe", "unsafe"])]
    if not len(rows):
        raise Missing
    return Reading(100 * float(rows["value"].mean()), rows=int(rows["rows"].iloc[0]))


def _best(run: FinishedRun, direction: str) -> float:
    """The point beyond 1 that refuses most attacks of the validation split."""
    table = run.table
    tried = sorted(set(table[(table["direction"] == direction) & (table["alpha"] > 1)]["alpha"]))
    return max(tried, key=lambda alpha: _refused(run, direction, alpha, "validation").value)


def beyond(run: FinishedRun, direction: str, *, alpha: float | None = None) -> Reading:
    """Points by which more attacks are refused at a point beyond the tuned model than by itself; None for the best."""
    there = _best(run, direction) if alpha is None else alpha
    return difference(_refused(run, direction, there, "test"), _refused(run, "own", 1.0, "test"))


def beyond_cost(run: FinishedRun, *, alpha: float | None = None) -> Reading:
    """Points by which fewer safe prompts are answered there."""
    there = _best(run, "own") if alpha is None else alpha
    at = [_share(_one(run.table, direction="own", alpha=each, split="test", mixture="safe")) for each in (1.0, there)]
    return difference(*at)


def backwards(run: FinishedRun) -> Reading:
    """Per cent of unsafe prompts that are refused where the change is taken the other way."""
    return _share(_one(run.table, direction="own", alpha=run.table["alpha"].min(), split="test", mixture="unsafe"))


def directed(run: FinishedRun, what: str, prompts: str, answer: str, direction: str = "refusal") -> Reading:
    """Per cent of prompts with an answer, with a direction taken out or put in; of random ones the mean.

    Its interval is over prompts, and of random directions over these as well.
    """
    row = _one(run.table, what=what, prompts=prompts, answer=answer, direction=direction)
    return _share(row)._replace(interval=(100 * row["low"], 100 * row["high"]))


def without(run: FinishedRun, direction: str = "refusal") -> Reading:
    """Points by which fewer unsafe prompts are refused without a direction."""
    before = directed(run, "nothing", "unsafe", "refused", "none")
    return difference(before, directed(run, "taken out", "unsafe", "refused", direction))


def relearned(run: FinishedRun, way: str, unsafe: str = "all") -> Reading:
    """Per cent of unsafe prompts that are answered after the last step of a way."""
    return _share(_one(run.table, way=way, unsafe=unsafe, step=run.table["step"].max()))


def soft_success(run: FinishedRun, vectors: str, mixture: str = "unsafe") -> Reading:
    """Per cent of prompts that are answered behind the most soft tokens."""
    return _share(_one(run.table, vectors=vectors, mixture=mixture, number=run.table["number"].max()))
