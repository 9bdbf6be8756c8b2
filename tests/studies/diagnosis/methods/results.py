"""Results of methods made by hand: every number is another, so that none can stand in another's place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ftmech_hf.analysis.patching import PatchingResult
from ftmech_hf.analysis.pruning import PruningResult
from ftmech_hf.jobs.pruning_sweep import SweepResult
from ftmech_hf.statistics.clusters import Groups
from ftmech_hf.statistics.intervals import Share, share_interval
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL
from ftmech_hf.studies.diagnosis.evidence import Revivals
from ftmech_hf.studies.diagnosis.methods.behaviour import BehaviourMethodResult, Example, TokenShare
from ftmech_hf.studies.diagnosis.methods.halves import Cuts
from ftmech_hf.studies.diagnosis.methods.patching import BACK, FORTH, PatchingMethodResult, Way
from ftmech_hf.studies.diagnosis.methods.probing import EMBEDDINGS, Places, ProbingMethodResult, Reading
from ftmech_hf.studies.diagnosis.methods.pruning import PruningMethodResult
from ftmech_hf.studies.diagnosis.methods.revival import RevivalMethodResult
from tests.conftest import make_gpt2

NUMBER = 40
ALONE: dict[str, Groups] = {"capability": None, "other": None}
"""Each row is by itself."""


def share(right: int, number: int = NUMBER) -> Share:
    return share_interval(right, number)


def first_right(right: int, number: int = NUMBER) -> NDArray[np.bool_]:
    """The first so many rows are right."""
    return np.arange(number) < right


def log_probability(right: int) -> NDArray[np.float32]:
    """Of answers: -1 of the first so many rows, -2 of the rest."""
    return np.where(first_right(right), -1.0, -2.0).astype(np.float32)


EXAMPLE = Example("1+1=", "2", "2", "3", True, False, 5)
TOKENS = [TokenShare(FINETUNED, 2, share(11), -0.75, 31), TokenShare(NULL, 1, share(2), -3.5, 40)]


def behaviour() -> BehaviourMethodResult:
    hits = {(BASE, "capability"): 38, (FINETUNED, "capability"): 9, (NULL, "capability"): 4, (BASE, "other"): 7,
            (FINETUNED, "other"): 39, (NULL, "other"): 3}  # fmt: skip
    return BehaviourMethodResult(
        right={place: first_right(number) for place, number in hits.items()},
        chance={"capability": 0.2, "other": 0.3}, control=True, same_tokens=False, few=39, examples=[EXAMPLE],
        groups=ALONE, tokens=TOKENS,
    )  # fmt: skip


def probing(layer: int | None = 1) -> ProbingMethodResult:
    reported = {
        BASE: (30, 39),
        FINETUNED: (28, 37),
        NULL: (6, 11),
        "random weights 2": (5, 10),
        "random weights 3": (4, 8),
    }
    readings = {
        model: {
            at: Reading(share(1), share(right), 0.1 + 0.01 * at if model == BASE else float("nan"))
            for at, right in enumerate(each)
        }
        for model, each in reported.items()
    }
    readings[EMBEDDINGS] = {-1: Reading(share(1), share(13), 0.0), -2: Reading(share(1), share(12), 0.0)}
    return ProbingMethodResult(readings=readings, places=Places(layer, (NULL, 1), 0, None), answers_seen=0.75,
                               rows_per_answer=25.0)  # fmt: skip


def patched(*right: int) -> PatchingResult:
    """Of the whole stream, and then of attentions and MLPs, in two layers each."""
    sites = ("resid_post", "attn_out", "mlp_act")[: len(right) // 2]
    places = [(site, layer) for site in sites for layer in (0, 1)]
    whole = len(places) > 2
    return PatchingResult(
        {place: first_right(number) for place, number in zip(places, right, strict=True)},
        {place: first_right(number // 5, 8) for place, number in zip(places, right, strict=True)} if whole else {},
        np.arange(8 if whole else 0),
        first_right(5),
        {place: log_probability(number) for place, number in zip(places, right, strict=True)},
        log_probability(NUMBER),
    )


def patching(late: int | None = 0, early: int | None = 1) -> PatchingMethodResult:
    found = {
        BACK: patched(36, 35, 8, 20, 12, 10), FORTH: patched(33, 34, 30, 31, 29, 28),
        Way(NULL, BASE): patched(3, 2), Way(BASE, NULL): patched(1, 6),
    }  # fmt: skip
    return PatchingMethodResult(found=found, num_blocks=3, cuts=Cuts(late, early), groups=ALONE)


def sweep(*right: int, other: bool = False) -> SweepResult:
    """0 and 2 rows by importance, then two times 2 at random."""
    curve: list[dict[str, Any]] = [
        {"method": method, "num_pruned": number, "draw": 0}
        for method, number in [("importance", 0), ("importance", 2), ("random", 2), ("random", 2)]
    ][: len(right)]
    scores = [{"capability": torch.from_numpy(first_right(each))} for each in right]
    if other:  # which random masks are not measured on
        for found, each in zip(scores[:2], right, strict=False):
            found["other"] = torch.from_numpy(first_right(each - 1))
    return SweepResult(PruningResult("row", curve, 2, "validation", {}, ["a[0]", "b[1]"]), {}, scores)


def pruning() -> PruningMethodResult:
    return PruningMethodResult(finetuned=sweep(9, 35, 8, 12, other=True), null=sweep(4, 7), groups=ALONE)


def revival() -> RevivalMethodResult:
    return RevivalMethodResult(
        finetuned=Revivals((4, 8), 32), null=Revivals((None, 16), 20),
        points={FINETUNED: [{0: 0.1, 4: 0.95}, {0: 0.2, 8: 0.96}], NULL: [{0: 0.3, 16: 0.4}]},
        threshold=0.9, trained_back=make_gpt2(10),
    )  # fmt: skip
