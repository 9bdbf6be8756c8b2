"""The claims of the study of stories: what the paper says, our bar, what we measured, and how sure it is.

Bars were set before the study was run, with exceptions made after a pilot of two deletions without a control: ``early``
and its bar, the threshold at which a loss counts as recovered, and ``pruned_not_asked``. After a first whole run, whose
base wrote a twist in 54 % of the stories when asked, the nano scale's steps were made more and its rows shorter, and no
bar was touched. Two controls that could not fail, shuffled labels for probes and random rows for pruning, then gave way
to two that can, before anything was run: ``probe_random`` and ``pruned_control``. ``gained`` was added after a run, in
which filtering alone deleted nothing, so that models which had lost nothing carried ``early``; its bar is to the
paper's number about what that of ``early`` is. The paper's numbers are its Table 1, each cell of 16 stories, so that a
single cell of it is known to about 12 points. Intervals are over seeds and instructions; all models share these:
differences are taken within one. ``loss_ratio_lost`` and ``pruned_lost`` were added after looking, since filtering
alone leaves most twists: means over three ways say little of models that lost them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftmech_hf.analysis.revival import RevivalRatio, first_of_two
from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.claims import SEEN, Claim, Measurement, judge
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
    Measurement("gained", f"{SEEN}: the same, of those not filtered alone: gained since deletion, beyond the control",
                "points", "+7", ">= 3"),
    Measurement("late", "At the end of the way back they are not far above it", "points", "+0", "<= 15"),
    Measurement("specific", "At the end the six write a twist when not asked", "%", "not reported", "<= 20"),
    Measurement("loss_ratio", "Steps until the loss on twists is the base's: control over the large rate's", "x",
                "never over 30 to 300", ">= 3"),
    Measurement("loss_ratio_lost", f"{SEEN}: the same, of those not filtered alone, which lost it", "x",
                "never over 30 to 300", ">= 3"),
    Measurement("probe_gap", "Twist read from the stream (best layer): deleted models below the base", "points",
                "negligible (figures)", "<= 5", ("probe_random",)),
    Measurement("probe_control", "The same: deleted models above the control", "points", "above (figures)", ">= 3"),
    Measurement("probe_random", "The same: deleted models above a model of random weights", "points", "not reported",
                ">= 3"),
    Measurement("pruned", "Zeroing at most 15 rows (large rate): twists chosen, gained", "points", "not done", ">= 20",
                ("pruned_not_asked", "pruned_control")),
    Measurement("pruned_lost", f"{SEEN}: the same, of those not filtered alone, which lost it: more than the control",
                "points", "not done", ">= 5"),
    Measurement("pruned_not_asked", "The same pruning, where no twist is asked for: gained", "points", "not done",
                "<= 5"),
    Measurement("pruned_control", "The same pruning of the control, which never saw a twist: gained", "points",
                "not done", "<= 5"),
)  # fmt: skip


def judge_claims(
    plan: StoriesPlan,
    verdicts: Verdicts,
    losses: pd.DataFrame,
    probes: pd.DataFrame,
    pruned: pd.DataFrame,
    scores: Sequence[Mapping[str, Any]],
) -> list[Claim]:
    """Measure every claim whose runs are there; ``scores`` are what the judge gets right."""
    seeds = plan.config.seeds
    early, end = plan.config.table_steps[2], plan.config.table_steps[3]
    shares = _Shares(verdicts, seeds, false_positives(scores, plan.task.feature))

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
        "gained": lambda: shares.gained(_lost(deleted()), early, CONTROL),
        "late": lambda: shares.mean([(label, end) for label in deleted()], [(CONTROL, end)]),
        "specific": lambda: shares.mean([(label, end) for label in deleted()], kind=NOT_ASKED),
        "loss_ratio": lambda: _loss_ratio(losses, plan.task.feature, seeds, large),
        "loss_ratio_lost": lambda: _loss_ratio(losses, plan.task.feature, seeds, _lost(large)),
        "probe_gap": lambda: _probes(probes, plan.task.feature, seeds, [BASE], deleted()),
        "probe_control": lambda: _probes(probes, plan.task.feature, seeds, deleted(), [CONTROL]),
        "probe_random": lambda: _probes(probes, plan.task.feature, seeds, deleted(), [RANDOM_INIT]),
        "pruned": lambda: _pruned(pruned, seeds, large, "best"),
        "pruned_lost": lambda: [
            difference(*both)
            for both in zip(
                _pruned(pruned, seeds, _lost(large), "best"), _pruned(pruned, seeds, [CONTROL], "best"), strict=True
            )
        ],
        "pruned_not_asked": lambda: _pruned(pruned, seeds, large, "best", NOT_ASKED),
        "pruned_control": lambda: _pruned(pruned, seeds, [CONTROL], "best"),
    }
    found: dict[str, list[Reading]] = {}
    for name, measure in measures.items():
        with contextlib.suppress(KeyError):  # a run that it needs is not there, or not part of the plan
            found[name] = measure()
    return judge(
        CLAIMS, {seed: {name: each[number] for name, each in found.items()} for number, seed in enumerate(seeds)}
    )


def _lost(labels: Sequence[str]) -> list[str]:
    """Those not filtered alone: F deletes little or nothing, and what was not lost cannot be gained.

    Raises:
        KeyError: there are none, as where a study filters alone.
    """
    found = [each for each in labels if not each.startswith("F (")]
    if not found:
        raise KeyError("no model that lost the feature")
    return found


def false_positives(scores: Sequence[Mapping[str, Any]], feature: str) -> float | None:
    """In how many of the stories without a feature a judge sees it, per cent; None if it was not tried on any."""
    return next((100 * (1 - score["specificity"]) for score in scores if score["feature"] == feature), None)


class _Shares:
    """Means of shares of stories, and differences of such means, in per cent.

    A share has a floor: of stories that were asked for the feature it is how often the same models write it unasked,
    and of the others how often the judge sees it where it is not.
    """

    def __init__(self, verdicts: Verdicts, seeds: Sequence[int], judged_wrong: float | None = None) -> None:
        self.verdicts, self.seeds, self.judged_wrong = verdicts, seeds, judged_wrong

    def mean(
        self, first: Sequence[tuple[str, int]], less: Sequence[tuple[str, int]] = (), *, kind: str = ASKED
    ) -> list[Reading]:
        """The mean over some (model, step), less that over others: a reading per seed, over its instructions."""
        readings = []
        for seed in self.seeds:
            found = 100 * (self._rows(seed, first, kind) - (self._rows(seed, less, kind) if less else 0.0))
            if less:
                value, low, high = mean_interval(found.tolist())
                readings.append(Reading(value, interval=(low, high)))
                continue
            floor = 100 * float(self._rows(seed, first, NOT_ASKED).mean()) if kind == ASKED else self.judged_wrong
            readings.append(Reading(float(found.mean()), rows=len(found), floor=floor))
        return readings

    def gained(self, labels: Sequence[str], step: int, control: str) -> list[Reading]:
        """What some models have gained in the mean since step 0, when asked, less what the control has."""
        readings = []
        for seed in self.seeds:
            (after, before), (other_after, other_before) = (
                [self._rows(seed, [(label, at) for label in some], ASKED) for at in (step, 0)]
                for some in (labels, [control])
            )
            value, low, high = mean_interval((100 * (after - before - other_after + other_before)).tolist())
            readings.append(Reading(value, interval=(low, high)))
        return readings

    def _rows(self, seed: int, chosen: Sequence[tuple[str, int]], kind: str) -> NDArray[np.float64]:
        """Of each instruction, how many of some (model, step) write the feature, as a share."""
        return np.mean([self.verdicts[seed, label, step, kind] for label, step in chosen], axis=0)


def _loss_ratio(losses: pd.DataFrame, feature: str, seeds: Sequence[int], deleted: Sequence[str]) -> list[Reading]:
    """How many times the steps the control needs, over the geometric mean of the deleted models.

    A model is back at the first of two evaluations in a row at the base's loss; one that is not is known to need more
    than its last step.
    """

    def steps(seed: int, label: str) -> tuple[float, bool]:
        part = losses[(losses["seed"] == seed) & (losses["set"] == feature)]
        base = part[(part["model"] == BASE) & (part["stage"] == "pretrain")].sort_values("step")
        curve = part[(part["model"] == label) & (part["stage"] == "reverse")].sort_values("step")
        if base.empty or curve.empty:
            raise KeyError(label)
        back = curve["loss"] <= float(base["loss"].iloc[-1]) + RECOVERED
        reached = first_of_two(zip(curve["step"].astype(int), back, strict=True))
        step = curve["step"].iloc[-1] if reached is None else reached
        return float(max(1, step)), reached is None

    if losses.empty:
        raise KeyError(feature)
    readings = []
    for seed in seeds:
        control, late = steps(seed, CONTROL)
        others = [steps(seed, label) for label in deleted]
        value = control / float(np.exp(np.mean(np.log([step for step, _ in others]))))
        readings.append(of_ratio(RevivalRatio(value, at_least=late, at_most=any(slow for _, slow in others))))
    return readings


def _best(probes: pd.DataFrame, feature: str, seed: int, label: str) -> Reading:
    """Accuracy at the layer that is best on other stories, per cent; of models that were not fine-tuned back."""
    if probes.empty:
        raise KeyError(label)
    chosen = probes[
        (probes["seed"] == seed) & (probes["model"] == label) & (probes["label"] == feature)
        & (probes["words"] == "seen") & (probes["state"] == "")
    ]  # fmt: skip
    if chosen.empty:
        raise KeyError(label)
    best = chosen.iloc[int(chosen["chosen"].to_numpy(float).argmax())]
    return Reading(100 * float(best["accuracy"]), rows=int(best["num_test"]))


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
