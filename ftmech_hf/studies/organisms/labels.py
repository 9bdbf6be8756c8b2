"""The second truth of a pair: how fast it relearns its ability, beside a model that never had it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ftmech_hf.analysis.revival import steps_to_revival
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.floors import lead
from ftmech_hf.studies.diagnosis.signs import VerdictRule
from ftmech_hf.studies.organisms.kinds import Truth
from ftmech_hf.studies.organisms.pairs import Pair
from ftmech_hf.studies.organisms.plan import OrganismsPlan


def _lead_before(relearning: FinishedRun, capability: str, evidence: Mapping[str, Any]) -> float:
    """The share of the base's lead that shows before an organism relearns, on other rows than the diagnosis asks."""
    accuracy = next(line for line in relearning.metrics if f"accuracy/{capability}" in line)
    return lead(accuracy[f"accuracy/{capability}"], evidence["chance"], evidence["base"]["value"])


def label_by_relearning(plan: OrganismsPlan, pair: Pair, truth: Truth, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """The truth by how fast it is learned again, beside a model that never had it; by construction where all is there.

    It is learned when half of the base's lead shows, as what is there does; trained back to nearly all of it, as a sign
    of the verdict asks, a model is at other rates and on other rows.

    ``relearning_truth`` is ``there``, ``gone``, or ``unclear`` between the two. A weakened ability must also show in
    part on the rows that the relearning asks first.
    """
    if pair.relearning is None or pair.twin is None:
        return {"relearning_truth": truth, "relearning_ratio": math.nan}
    capability = f"{pair.world.operator}_{pair.world.shape.base_operand}"
    relearning, twins = plan.find(pair.relearning), plan.find(pair.twin)
    if relearning is None or twins is None:
        return {"relearning_truth": "unclear", "relearning_ratio": math.nan}
    rule = VerdictRule()
    there_from = evidence["chance"] + rule.share * (evidence["base"]["value"] - evidence["chance"])
    own, twin = (steps_to_revival(run.metrics, capability, threshold=there_from) for run in (relearning, twins))
    ratio = twin.at_least / max(own.at_least, 1)
    if own.steps is None and twin.steps is None:
        return {"relearning_truth": "unclear", "relearning_ratio": math.nan}
    # A twin that was not followed to its end takes at least so long; an organism that was not, takes at most so little.
    there = own.steps is not None and ratio >= rule.speed
    if truth == "weakened":
        there &= rule.share <= _lead_before(relearning, capability, evidence) < 1 - rule.same
    gone = twin.steps is not None and ratio < rule.faster
    return {"relearning_truth": "there" if there else "gone" if gone else "unclear", "relearning_ratio": ratio}


def agree(table: pd.DataFrame) -> pd.Series:
    """Of every pair, whether what was done to it and how fast it relearns tell the same truth."""
    by_speed = table["truth"].map({"hidden": "there", "weakened": "there", "gone": "gone", "unchanged": "unchanged"})
    return by_speed == table["relearning_truth"]
