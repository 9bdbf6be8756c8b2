"""What is asked of the verdict, with its bars, and what the test pairs say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.report.claims import SEEN, UNMEASURED, Claim, Measurement, judge_pairs, withdraw
from ftmech_hf.studies.organisms.edits import EDIT_BARS, edit_claims
from ftmech_hf.studies.organisms.robustness import area_interval

BARS = (
    Measurement("wrong_gone", "Something is left, and the verdict is gone", "%", UNMEASURED, "<= 1"),
    Measurement("wrong_wrapper", "Nothing is hidden, and the verdict is behind a wrapper", "%", UNMEASURED, "<= 2"),
    Measurement("unchanged_right", "Nothing was taken, and the verdict is unchanged", "%", UNMEASURED, ">= 97"),
    # To decide is worth nothing where what is decided is wrong.
    Measurement("undecided", "The verdict is undecided, with a control", "%", UNMEASURED, "<= 10",
                controls=("wrong_gone", "wrong_wrapper")),
)  # fmt: skip
"""In per cent of the test pairs that they are about: rates of the score, by their key in it."""
_EVERY = f"{SEEN}, also of pairs whose two labels disagree, by what was done to them"
EVERY_BARS = tuple(
    each._replace(id=f"every_{each.id}", statement=f"{_EVERY}: {each.statement[0].lower()}{each.statement[1:]}")
    for each in BARS[:2]
)
"""The two errors again, of all test pairs: a label that doubts a pair is no reason for not counting a verdict on it."""
AUC_BAR = Measurement(
    "auc", "Hidden above gone, by the probability that is made of the signs: area under the curve", "share",
    "0.971 (unlearning depth, arXiv 2605.24614)", ">= 0.99",
)  # fmt: skip

ROBUSTNESS_BAR = Measurement(
    "robustness", "That probability, of organisms that are rounded or relearn a little: harmonic mean of how it stays "
    "and how it moves as that of a model that never had it", "share", "0.932 (unlearning depth, arXiv 2605.24614)",
    ">= 0.95", controls=("auc",),
)  # fmt: skip


def make_claims(score: Mapping[str, Any], seeds: Sequence[int]) -> list[Claim]:
    """The claims of a score, for every rate that there are pairs of; one whose control fails does not hold.

    Args:
        score: of :func:`ftmech_hf.studies.organisms.results.score`.
        seeds: of the test pairs.
    """
    found = []
    rates = {bar: score[bar.id] for bar in BARS} | {
        bar: score["every"][bar.id.removeprefix("every_")] for bar in EVERY_BARS
    }
    for bar, share in rates.items():
        if share is not None:
            value, *ends = (100 * share[key] for key in ("value", "low", "high"))
            found.append(judge_pairs(bar, value, (ends[0], ends[1]), seeds))
    if score["auc"] is not None:
        interval = area_interval(score["auc"], min(score["measured"].values()))
        found.append(judge_pairs(AUC_BAR, score["auc"], interval, seeds))
    if (robust := score["robustness"]["probability"]) is not None:
        value, *ends = (robust["robustness"][key] for key in ("value", "low", "high"))
        found.append(judge_pairs(ROBUSTNESS_BAR, value, (ends[0], ends[1]), seeds))
    if score.get("edits"):
        found += edit_claims(score["edits"], seeds)
    return withdraw(
        found, {each.id: each.controls for each in (*BARS, *EVERY_BARS, AUC_BAR, ROBUSTNESS_BAR, *EDIT_BARS)}
    )
