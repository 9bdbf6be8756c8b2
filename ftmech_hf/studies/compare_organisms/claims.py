"""What is asked of a comparison, with its bars, and what the pairs say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftmech_hf.report.claims import SEEN, UNMEASURED, Claim, Measurement, judge_pairs, say_too_few, withdraw

BARS = (
    Measurement(
        "organisms", "Where what was planted shows is among the first ten findings, and stands out", "%",
        "19 of 20 implanted texts, of large models (arXiv 2605.25902)", ">= 91.6",
        controls=("false_alarms", "others_named"),
    ),
    Measurement("false_alarms", "Nothing was taught, and something stands out", "%", UNMEASURED, "<= 5"),
    Measurement(
        "others_named", f"{SEEN}, control: the sign that is named most often on pages that do not have it",
        "%", UNMEASURED, "<= 20",
    ),
)  # fmt: skip
"""In per cent of the pairs that they are about: shares of the score, by their key in it. Eleven of twelve are 91.7."""


def find_too_few(score: Mapping[str, Any]) -> dict[str, str]:
    """Id of a claim that cannot hold whatever comes out -> of how many pairs it is, and how many it takes."""
    return {bar.id: said for bar in BARS if (said := say_too_few(bar, score[bar.id]["of"]))}


def make_claims(score: Mapping[str, Any], *, whole: bool = True) -> list[Claim]:
    """The claims of a score, for every share that there are pairs of.

    Args:
        score: of :func:`ftmech_hf.studies.compare_organisms.score.score_pairs`, with its seeds.
        whole: whether all comparisons are there; if not, what is there may be what went well, and nothing is judged.
    """
    shares = {bar: score[bar.id] for bar in BARS if score[bar.id]["of"]}
    claims = [
        judge_pairs(
            bar, 100 * each["share"], (100 * each["low"], 100 * each["high"]), score["seeds"], whole=whole
        )
        for bar, each in shares.items()
    ]  # fmt: skip
    return withdraw(claims, {bar.id: bar.controls for bar in BARS})
