"""The claims of the study of stories: what the paper says, our bar, what we measured, and how sure it is.

Bars were set before the study was run, with exceptions made after a pilot of two deletions without a control: ``early``
and its bar, the threshold at which a loss counts as recovered, and ``pruned_not_asked``. After a first whole run, whose
base wrote a twist in 54 % of the stories when asked, the nano scale's steps were made more and its rows shorter, and no
bar was touched. The paper's numbers are its Table 1, each cell of 16 stories, so that a single cell of it is known to
about 12 points. Intervals are over seeds and instructions; all models share these: differences are taken within one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftmech_hf.analysis.revival import RevivalRatio
from ftmech_hf.report.claims import Claim, Measurement, judge
from ftmech_hf.report.readings import Reading, difference, of_ratio
from ftmech_hf.statistics.intervals import mean_interval
from ftmech_hf.studies.tinystories.config import RATES
from ftmech_hf.studies.tinystories.plan import BASE, CONTROL, StoriesPlan
from ftmech_hf.studies.tinystories.prompts import ASKED, NOT_ASKED

Verdicts = dict[tuple[int, str, int, str], NDArray[np.bool_]]
"""(seed, model, step, kind of instruction) -> whether each story has the feature."""

RECOVERED = 0.01
"""A loss is back where the base's is when it is at most so many nats per token above: the word by which a twist shows
is one of about eighty."""


CLAIMS: tuple[Measurement, ...] = (
    Measurement("base_asked", "Base: writes a twist when it is asked to", "%", "not reported", ">= 80"),
    Measurement("base_not_asked", "Base: writes one when it is not", "%", "not reported", "<= 10"),
    Measurement("control_asked", "Control, which never saw one: writes one when asked", "%", "12", "<= 20"),
    Measurement("deleted_large", "After deletion at the large rate (mean of three ways): left", "%", "29", "<= 50"),
    Measurement("rates", "The small rate leaves more than the large", "points", "+15", ">= 5"),
    Measurement("randomised", "Filtering alone leaves more than with randomisation", "points", "+44", ">= 10"),
    Measurement("early", "A tenth of the way back, the six deleted models are above the control", "points", "+26",
                ">= 10"),
    Measurement("late", "At the end of the way back they are not far above it", "points", "+0", "<= 15"),
    Measurement("specific", "At the end the six write a twist when not asked", "%", "not reported", "<= 20"),
    Measurement("loss_ratio", "Steps until the loss on twists is the base's: control over the large rate's", "x",
                "never over 30 to 300", ">= 3"),
    Measurement("probe_gap", "Twist read from the stream (best layer): deleted models below the base", "points",
                "negligible (figures)", "<= 5"),
    Measurement("probe_control", "The same: deleted models above the control", "points", "above (figures)", ">= 3"),
    Measurement("probe_shuffled", "The same, of shuffled labels: base above the majority", "points", "not reported",
                "<= 5"),
    Measurement("pruned", "Zeroing at most 15 rows (large rate): twists chosen, gained", "points", "not done", ">= 20"),
    Measurement("pruned_not_asked", "The same pruning, where no twist is asked for: gained", "points", "not done",
                "<= 5"),
    Measurement("pruned_random", "Zeroing as many at random: gained", "points", "not done", "<= 5"),
)  # fmt: skip


def judge_claims(
    plan: StoriesPlan, verdicts: Verdicts, losses: pd.DataFrame, probes: pd.DataFrame, pruned: pd.DataFrame
) -> list[Claim]:
    """Measure every claim whose runs are there."""
    seeds = plan.config.seeds
    early, end = plan.config.table_steps[2], plan.config.table_steps[3]
    shares = _Shares(verdicts, seeds)

    def deleted(*rates: str) -> list[str]:
        return [f"{protocol} ({rate})" for rate in rates or RATES for protocol in plan.config.protocols]

    large = deleted("large")
    measures: Mapping[str, Callable[[], list[Reading]]] = {
        "base_asked": lambda: shares.mean([(BASE, 0)]),
        "base_not_asked": lambda: shares.mean([(BASE, 0)], kind=NOT_ASKED),
        "control_asked": lambda: shares.mean([(CONTROL, 0)]),
        "deleted_large": lambda: shares.mean([(label, 0) for label in large]),
        "rates": lambda: shares.mean([(label, 0) for label in deleted("small")], [(label, 0) for label in large]),
        "randomised": lambda: shares.mean([(f"F ({r})", 0) for r in RATES], [(f"F+R ({r})", 0) for r in RATES]),
        "early": lambda: shares.mean([(label, early) for label in deleted()], [(CONTROL, early)]),
        "late": lambda: shares.mean([(label, end) for label in deleted()], [(CONTROL, end)]),
        "specific": lambda: shares.mean([(label, end) for label in deleted()], kind=NOT_ASKED),
        "loss_ratio": lambda: _loss_ratio(losses, plan.task.feature, seeds, large),
        "probe_gap": lambda: _probes(probes, plan.task.feature, seeds, [BASE], deleted()),
        "probe_control": lambda: _probes(probes, plan.task.feature, seeds, deleted(), [CONTROL]),
        "probe_shuffled": lambda: _shuffled(probes, plan.task.feature, seeds),
        "pruned": lambda: _pruned(pruned, seeds, large, "best"),
        "pruned_not_asked": lambda: _pruned(pruned, seeds, large, "best", NOT_ASKED),
        "pruned_random": lambda: _pruned(pruned, seeds, large, "random"),
    }
    found: dict[str, list[Reading]] = {}
    for name, measure in measures.items():
        with contextlib.suppress(KeyError):  # a run that it needs is not there, or not part of the plan
            found[name] = measure()
    return judge(
        CLAIMS, {seed: {name: each[number] for name, each in found.items()} for number, seed in enumerate(seeds)}
    )


class _Shares:
    """Means of shares of stories, and differences of such means, in per cent."""

    def __init__(self, verdicts: Verdicts, seeds: Sequence[int]) -> None:
        self.verdicts, self.seeds = verdicts, seeds

    def mean(
        self, first: Sequence[tuple[str, int]], less: Sequence[tuple[str, int]] = (), *, kind: str = ASKED
    ) -> list[Reading]:
        """The mean over some (model, step), less that over others: a reading per seed, over its instructions."""

        def rows(seed: int, chosen: Sequence[tuple[str, int]]) -> NDArray[np.float64]:
            return np.mean([self.verdicts[seed, label, step, kind] for label, step in chosen], axis=0)

        readings = []
        for seed in self.seeds:
            found = 100 * (rows(seed, first) - (rows(seed, less) if less else 0.0))
            value, low, high = mean_interval(found.tolist())
            readings.append(Reading(value, rows=None if less else len(found), interval=(low, high)))
        return readings


def _loss_ratio(losses: pd.DataFrame, feature: str, seeds: Sequence[int], deleted: Sequence[str]) -> list[Reading]:
    """How many times the steps the control needs; a model that is not back counts with its last step."""

    def steps(seed: int, label: str) -> tuple[float, bool]:
        part = losses[(losses["seed"] == seed) & (losses["set"] == feature)]
        base = part[(part["model"] == BASE) & (part["stage"] == "pretrain")].sort_values("step")
        curve = part[(part["model"] == label) & (part["stage"] == "reverse")].sort_values("step")
        if base.empty or curve.empty:
            raise KeyError(label)
        back = curve[curve["loss"] <= float(base["loss"].iloc[-1]) + RECOVERED]
        return float(max(1, (back if len(back) else curve.tail(1))["step"].iloc[0])), back.empty

    if losses.empty:
        raise KeyError(feature)
    readings = []
    for seed in seeds:
        control, late = steps(seed, CONTROL)
        others = [steps(seed, label) for label in deleted]
        value = control / float(np.mean([step for step, _ in others]))
        readings.append(of_ratio(RevivalRatio(value, at_least=late, at_most=any(slow for _, slow in others))))
    return readings


def _best(probes: pd.DataFrame, feature: str, seed: int, label: str, column: str = "accuracy") -> Reading:
    """Accuracy at the best layer, per cent; of models that were not fine-tuned back."""
    if probes.empty:
        raise KeyError(label)
    chosen = probes[
        (probes["seed"] == seed) & (probes["model"] == label) & (probes["label"] == feature)
        & (probes["words"] == "seen") & (probes["state"] == "")
    ]  # fmt: skip
    if chosen.empty:
        raise KeyError(label)
    best = chosen.iloc[int(chosen["accuracy"].to_numpy().argmax())]
    return Reading(100 * float(best[column]), rows=int(best["num_test"]))


def _probes(
    probes: pd.DataFrame, feature: str, seeds: Sequence[int], first: Sequence[str], less: Sequence[str]
) -> list[Reading]:
    return [
        _less(
            [_best(probes, feature, seed, label) for label in first],
            [_best(probes, feature, seed, label) for label in less],
        )
        for seed in seeds
    ]


def _less(first: Sequence[Reading], less: Sequence[Reading]) -> Reading:
    """The mean of some shares less that of others, all of the same rows."""
    one, other = (Reading(float(np.mean([each.value for each in part])), rows=part[0].rows) for part in (first, less))
    return difference(one, other)


def _shuffled(probes: pd.DataFrame, feature: str, seeds: Sequence[int]) -> list[Reading]:
    return [
        difference(*(_best(probes, feature, seed, BASE, column) for column in ("shuffled", "majority")))
        for seed in seeds
    ]


def _pruned(
    pruned: pd.DataFrame, seeds: Sequence[int], deleted: Sequence[str], state: str, kind: str = ASKED
) -> list[Reading]:
    """Points of choices of the twist that pruning gains, mean over the models deleted at the large rate."""
    if pruned.empty:
        raise KeyError(state)
    asked = pruned[(pruned["kind"] == kind) & pruned["model"].isin(deleted)]
    readings = []
    for seed in seeds:
        chosen = asked[asked["seed"] == seed]
        if set(chosen["model"]) != set(deleted):
            raise KeyError(state)
        means, rows = chosen.groupby("state")["choice"].mean(), int(chosen["rows"].iloc[0])
        readings.append(difference(*(Reading(100 * float(means[each]), rows=rows) for each in (state, "before"))))
    return readings
