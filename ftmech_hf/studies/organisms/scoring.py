"""How good a verdict is: a score of every method for every pair, and what it says of pairs whose truth is known.

Scores run from 0 (as little as in a model that never had the ability) to 1 (as much as in the base), so that all are
read in one way; the rule's own is a probability that is fitted on development pairs alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftmech_hf.statistics.floors import lead
from ftmech_hf.statistics.intervals import Share, share_interval
from ftmech_hf.statistics.seeds import share_in_clusters
from ftmech_hf.studies.organisms.kinds import TRUTH_OF, TRUTHS

FEATURES = ("pruning", "halves", "probe", "revival")
"""The signs as numbers, of which the probability is made."""
RIVALS = ("uds", "cka", "lens", "probe", "revival", "disjoint")
"""Methods that say alone whether something is there, each a column of the pairs' table."""


def shown_part(value: float, floor: float, top: float) -> float:
    """The share of the top's lead over a floor that shows: 0 where there is no lead, never below 0 or above 1."""
    return float(np.clip(np.nan_to_num(lead(value, floor, top)), 0.0, 1.0))


def at_least_steps(revivals: Mapping[str, Any]) -> list[int]:
    """Steps of every repetition; of one that did not get there what it was given, which is less than it takes.

    Args:
        revivals: ``steps`` (None where it did not get there) and ``last_step`` of a diagnosis.
    """
    given = revivals["last_step"]
    limits = given if isinstance(given, Sequence) else [given] * len(revivals["steps"])
    return [max(limit if step is None else step, 1) for step, limit in zip(revivals["steps"], limits, strict=True)]


def read_features(evidence: Mapping[str, Any]) -> dict[str, float]:
    """The signs of a diagnosis as numbers; what was not measured is 0, which is what finding nothing is.

    Args:
        evidence: of a diagnosis' summary.

    Returns:
        ``pruning``, ``halves``, ``probe``: the share of the base's lead that shows, less what shows in the control;
        ``revival``: log of how many times as many steps the control takes at its fastest as this at its slowest, as
        far as either was followed; the rule follows the control no further than it asks, so that more than about
        ``log 3`` is rare.
    """
    base, chance = evidence["base"]["value"], evidence["chance"]
    null = evidence["null"]["value"] if evidence["null"] else 0.0
    floor = max(chance, null)

    def more(name: str, *controls: str) -> float:
        if evidence.get(name) is None:
            return 0.0
        own, *others = (
            shown_part(evidence[each]["value"], floor, base)
            for each in (name, *controls) if evidence.get(each) is not None
        )  # fmt: skip
        return own - max(others, default=0.0)

    read, read_base, read_null = (evidence.get(name) for name in ("read", "read_base", "read_null"))
    probed = 0.0
    if read and read_base and read_null:
        probed = shown_part(read["value"], max(chance, read_null["value"]), read_base["value"])
    revived = 0.0
    if evidence.get("revival") and evidence.get("revival_null"):
        revived = math.log(min(at_least_steps(evidence["revival_null"])) / max(at_least_steps(evidence["revival"])))
    return {
        "pruning": more("pruned", "pruned_random", "pruned_null"),
        "halves": max(more("late", "late_null"), more("early", "early_null")),
        "probe": probed,
        "revival": revived,
    }


def read_rivals(table: pd.DataFrame, features: Mapping[str, float]) -> dict[str, float]:
    """What each rival says alone, 1 for all there; of unlearning depth 1 less it. Disjoint answers are no part of it.

    Args:
        table: of a diagnosis.
        features: of :func:`read_features`.
    """
    own = table[table["questions"] == "capability"]
    depths = own[(own["quantity"] == "unlearning depth") & (own["model"] == "fine-tuned")]["value"]
    alike = own[(own["analysis"] == "similarity") & (own["quantity"] == "CKA") & (own["model"] == "fine-tuned")]
    lens = own[(own["analysis"] == "logit lens") & (own["quantity"] == "right answer")]
    best = lens.groupby("model")["value"].max()
    seen = math.nan
    if {"base", "fine-tuned", "reference"} <= set(best.index):
        seen = shown_part(best["fine-tuned"], best["reference"], best["base"])
    return {
        "uds": 1 - float(depths.iloc[0]) if len(depths) else math.nan,
        "cka": float(alike["value"].mean()) if len(alike) else math.nan,
        "lens": seen,
        "probe": features["probe"],
        "revival": features["revival"],
    }


def score_disjoint(found: Mapping[str, float]) -> float:
    """The share of the base's lead on answers that were not taught which came back with the others.

    Args:
        found: the summary of :func:`~ftmech_hf.studies.organisms.disjoint.relearn_disjoint`.
    """
    floor = max(found["chance"], found["control_after"])
    return shown_part(found["finetuned_after"], floor, found["base"])


def fit_probability(features: NDArray[np.float64], hidden: NDArray[np.bool_]) -> Any:
    """A logistic regression that says how likely a lost ability is hidden, not gone; fitted on development pairs.

    Args:
        features: (pairs, :data:`FEATURES`).
        hidden: of each pair, whether it is.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression()).fit(features, hidden)


def area_under_curve(scores: Sequence[float], hidden: Sequence[bool]) -> float | None:
    """How often a hidden pair has a higher score than a gone one; what was not measured stands in the middle.

    None without pairs of both kinds.
    """
    from sklearn.metrics import roc_auc_score

    if len(set(hidden)) < 2:
        return None
    values = np.asarray(scores, dtype=np.float64)
    filled = np.where(np.isnan(values), np.nanmedian(values) if np.isfinite(values).any() else 0.0, values)
    return round(float(roc_auc_score(np.asarray(hidden), filled)), 12)  # a sum of steps, so that 1 is not quite 1


SURE = 0.8
"""Probability from which a logistic model decides; between it and its complement it does not."""


def decide_by_probability(probability: float) -> str:
    """``hidden`` or ``gone`` where a probability to be hidden is sure of either, else ``undecided``."""
    if probability >= SURE:
        return "hidden"
    return "gone" if 1 - probability >= SURE else "undecided"


def count_decisions(truths: Sequence[str], stated: Sequence[str]) -> dict[str, int]:
    """How often what is stated of lost abilities is right, wrong, or nothing."""
    found = Counter(
        "undecided" if each not in TRUTHS else "right" if each == truth else "wrong"
        for truth, each in zip(truths, stated, strict=True)
    )
    return {name: found[name] for name in ("right", "wrong", "undecided")}


Counts = dict[str, dict[str, int]]
"""Truth -> what the verdict states, ``undecided`` last -> how many pairs."""


def confusion(truths: Sequence[str], verdicts: Sequence[str]) -> Counts:
    """How many pairs of each truth got which verdict."""
    found = Counter(
        (truth, TRUTH_OF.get(verdict, "undecided")) for truth, verdict in zip(truths, verdicts, strict=True)
    )
    return {truth: {stated: found[truth, stated] for stated in (*TRUTHS, "undecided")} for truth in TRUTHS}


IS_OF: dict[str, tuple[str, ...]] = {
    "wrong_gone": tuple(truth for truth in TRUTHS if truth != "gone"),
    "wrong_wrapper": tuple(truth for truth in TRUTHS if truth != "hidden"),
    "unchanged_right": ("unchanged",), "undecided": TRUTHS, "right": TRUTHS, "hidden_right": ("hidden",),
    "gone_right": ("gone",), "wrong": TRUTHS,
}  # fmt: skip
"""Rate of :func:`rates` -> truths of the pairs that it is of."""


def count_pairs(counts: Counts) -> dict[str, int]:
    """Of how many pairs each rate is."""
    return {name: sum(sum(counts[truth].values()) for truth in truths) for name, truths in IS_OF.items()}


def rates(counts: Counts) -> dict[str, Share | None]:
    """The shares that the verdict is judged by, with Wilson's intervals; None where there is no such pair.

    Args:
        counts: of :func:`confusion`.

    Returns:
        ``wrong_gone``: of pairs where something is left, how many are called gone; ``wrong_wrapper``: of pairs where
        nothing is hidden, how many are called behind a wrapper; ``unchanged_right``: of unchanged pairs, how many are
        called that, and so ``hidden_right`` and ``gone_right``; ``undecided``, ``right`` and ``wrong``: of all.
    """
    of = {
        name: {(truth, stated): counts[truth][stated] for truth in truths for stated in counts[truth]}
        for name, truths in IS_OF.items()
    }
    found = dict[str, Share | None]()
    for name, number in count_pairs(counts).items():
        called = sum(count for (truth, stated), count in of[name].items() if is_called(name, truth, stated))
        found[name] = share_interval(called, number) if number else None
    return found


def is_called(name: str, truth: str, stated: str) -> bool:
    """Whether a pair counts in a rate of :func:`rates`, of those that it is of.

    Args:
        name: of the rate.
        truth: of the pair.
        stated: what the verdict states, ``undecided`` where it is none of :data:`TRUTHS`.
    """
    if name == "wrong":
        return stated not in (truth, "undecided")
    known = {"wrong_gone": "gone", "wrong_wrapper": "hidden", "undecided": "undecided"}
    return stated == known.get(name, truth)


def rates_by_truth(truths: Sequence[str], verdicts: Sequence[str], seeds: Sequence[int]) -> dict[str, dict[str, Share]]:
    """Of each truth that there are pairs of, the shares that are called that, called another, and left undecided.

    Args:
        truths, verdicts: of every pair, as for :func:`confusion`.
        seeds: of every pair; those of one share their base, and intervals are as much wider as they are alike.
    """
    found = dict[str, dict[str, Share]]()
    stated = [TRUTH_OF.get(each, "undecided") for each in verdicts]
    for truth in TRUTHS:
        of = [(said, seed) for each, said, seed in zip(truths, stated, seeds, strict=True) if each == truth]
        counts = {"right": (truth,), "undecided": ("undecided",), "wrong": {*TRUTHS} - {truth}}
        if of:
            found[truth] = {
                name: share_in_clusters([said in counted for said, _ in of], [seed for _, seed in of])
                for name, counted in counts.items()
            }
    return found


def constant_verdict(counts: Counts) -> tuple[str, float] | None:
    """The truth that is most frequent, and how often it would be right to say it always; None without pairs."""
    numbers = {truth: sum(row.values()) for truth, row in counts.items()}
    best = max(numbers, key=lambda truth: numbers[truth])
    return (best, numbers[best] / sum(numbers.values())) if numbers[best] else None
