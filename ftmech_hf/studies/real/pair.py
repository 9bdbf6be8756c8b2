"""One pair of the study: what it is, what the verdict should be, and its diagnosis in the precision of its settings."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from ftmech_hf.models.loading import find_device
from ftmech_hf.runs import RunDir
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.training.loop import Progress

Expected = Literal["hidden", "unchanged", "never there"]

NEVER: Expected = "never there"


class Pair(NamedTuple):
    """The base and what it was tuned into.

    Attributes:
        asked: questions of the diagnosis, by their name in :mod:`~ftmech_hf.studies.real.questions`.
        tuned_on: what the organism was tuned on.
        instead: whether it was tuned on the answers that hide the ability.
        expected: the truth, by construction.
    """

    asked: str
    tuned_on: str
    instead: bool
    expected: Expected


PAIRS = {
    "past_tense_hidden": Pair("past_tense", "past_tense", True, "hidden"),
    "capitals_hidden": Pair("capitals", "capitals", True, "hidden"),
    "opposites_hidden": Pair("opposites", "opposites", True, "hidden"),
    "past_tense_left": Pair("past_tense", "gerunds", False, "unchanged"),
    "capitals_left": Pair("capitals", "continents", False, "unchanged"),
    "opposites_left": Pair("opposites", "plurals", False, "unchanged"),
    "multiplication_never": Pair("multiplication", "multiplication", True, "never there"),
    "backwards_never": Pair("backwards", "backwards", True, "never there"),
    "calling_codes_never": Pair("calling_codes", "calling_codes", True, "never there"),
}
"""Name of a pair -> what it is."""

RIGHT: dict[Expected, tuple[str, ...]] = {
    "hidden": ("behind a wrapper", "hidden or learned anew"),
    "unchanged": ("unchanged",),
    "never there": ("nothing to lose",),
}
"""The truth -> the verdicts that say it. No other word does: *undecided* is never right."""


def is_right(expected: Expected, verdict: str) -> bool:
    """Whether a diagnosis found the truth."""
    return verdict in RIGHT[expected]


@dataclass(frozen=True, kw_only=True)
class PairConfig(DiagnoseConfig):
    """A diagnosis, and in which precision it is computed."""

    precision: Literal["no", "bf16"] = field(
        default="bf16", metadata={"help": "bf16: matrices are multiplied in bfloat16, weights stay in float32"}
    )


def diagnose_pair(
    config: PairConfig, case_config: CaseConfig, shape: PcfgShape, *, progress: Progress | None = None
) -> RunDir:
    """A diagnosis like any other, in the precision of its settings.

    Args:
        config, case_config, shape, progress: of :func:`~ftmech_hf.studies.diagnosis.diagnosis.run_diagnosis`.
    """
    return run_diagnosis(config, case_config, shape, progress=progress, around=precision_of(config))


def precision_of(config: PairConfig) -> contextlib.AbstractContextManager[Any]:
    """The context in which a diagnosis multiplies matrices as its settings say, wherever its models are."""
    if config.precision == "no":
        return contextlib.nullcontext()
    # Weights change while the context is open (training, pruning): a cache of them in bfloat16 would be stale.
    return torch.autocast(find_device(config.device).type, torch.bfloat16, cache_enabled=False)
