"""What is asked of the verdict, with its bars, and what the test pairs say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.report.claims import SEEN, UNMEASURED, Claim, Measurement, judge_pairs, say_too_few, withdraw
from ftmech_hf.studies.organisms.edits import EDIT_BARS, MEAN_BAR, edit_claims
from ftmech_hf.studies.organisms.robustness import area_interval
from ftmech_hf.studies.organisms.scoring import count_pairs

BARS = (
    Measurement("wrong_gone", "Something is left, and the verdict is gone", "%", UNMEASURED, "<= 1",
                controls=("every_wrong_gone",)),
    Measurement("wrong_wrapper", "Nothing is hidden, and the verdict is behind a wrapper", "%", UNMEASURED, "<= 2",
                controls=("every_wrong_wrapper",)),
    Measurement("unchanged_right", "Nothing was taken, and the verdict is unchanged", "%", UNMEASURED, ">= 97"),
    # To decide is worth nothing where what is decided is wrong.
    Measurement("undecided", "The verdict is undecided, with a control", "%", UNMEASURED, "<= 10",
                controls=("wrong_gone", "wrong_wrapper", "every_wrong_gone", "every_wrong_wrapper", "wrong")),
    # The errors above are none of a rule that calls everything weakened.
    Measurement("hidden_right", f"{SEEN}: what is hidden is called behind a wrapper", "%", UNMEASURED, ">= 90"),
    Measurement("gone_right", f"{SEEN}: what is gone is called gone", "%", UNMEASURED, ">= 90"),
    Measurement("wrong", f"{SEEN}: the verdict is any that is wrong", "%", UNMEASURED, "<= 5"),
)  # fmt: skip
"""In per cent of the test pairs that they are about: rates of the score, by their key in it."""
_EVERY = f"{SEEN}, also of pairs whose two labels disagree, by what was done to them"
EVERY_BARS = tuple(
    each._replace(
        id=f"every_{each.id}", statement=f"{_EVERY}: {each.statement[0].lower()}{each.statement[1:]}", controls=()
    )
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
ALL_BARS = (*BARS, *EVERY_BARS, AUC_BAR, ROBUSTNESS_BAR, *EDIT_BARS)


def make_claims(score: Mapping[str, Any], seeds: Sequence[int], *, whole: bool = True) -> list[Claim]:
    """The claims of a score, for every rate that there are pairs of; one whose control fails does not hold.

    Args:
        score: of :func:`ftmech_hf.studies.organisms.results.score`.
        seeds: of the test pairs.
        whole: whether all runs are there; if not, what is there may be what went well, and nothing is judged.
    """
    found = []
    rates = {bar: score[bar.id] for bar in BARS} | {
        bar: score["every"][bar.id.removeprefix("every_")] for bar in EVERY_BARS
    }
    for bar, share in rates.items():
        if share is not None:
            value, *ends = (100 * share[key] for key in ("value", "low", "high"))
            found.append(judge_pairs(bar, value, (ends[0], ends[1]), seeds, whole=whole))
    if score["auc"] is not None:
        interval = area_interval(score["auc"], min(score["measured"].values()))
        found.append(judge_pairs(AUC_BAR, score["auc"], interval, seeds, whole=whole))
    if (robust := score["robustness"]["probability"]) is not None:
        value, *ends = (robust["robustness"][key] for key in ("value", "low", "high"))
        found.append(judge_pairs(ROBUSTNESS_BAR, value, (ends[0], ends[1]), robust["seeds"], whole=whole))
    if score.get("edits"):
        found += edit_claims(score["edits"], whole=whole)
    return withdraw(found, {each.id: each.controls for each in ALL_BARS})


def find_too_few(score: Mapping[str, Any]) -> dict[str, str]:
    """The claims that cannot hold whatever comes out, since there are too few pairs, or edits, for their bars.

    Args:
        score: of :func:`ftmech_hf.studies.organisms.results.score`.

    Returns:
        id -> of how many it is, and how many it takes if all of them are as they should.
    """
    edits, robust = score.get("edits") or {}, score["robustness"]["probability"]
    numbers = {
        **count_pairs(score["confusion"]),
        **{f"every_{name}": number for name, number in count_pairs(score["every"]["confusion"]).items()},
        "auc": min(score["measured"].values()),
        "robustness": robust["pairs"] if robust else 0,
        **{bar.id: edits[bar.id]["of"] for bar in EDIT_BARS if bar.id != MEAN_BAR and edits.get(bar.id)},
    }
    return {bar.id: said for bar in ALL_BARS if (said := say_too_few(bar, numbers.get(bar.id, 0)))}
