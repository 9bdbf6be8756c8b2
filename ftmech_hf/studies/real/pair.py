"""One pair of the study: what it is, what the verdict should be, and its diagnosis in reduced precision."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from ftmech_hf.runs import RunDir
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.training.loop import Progress

Expected = Literal["hidden", "unchanged", "never there"]


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

HIDDEN = ("behind a wrapper", "hidden or learned anew")


def is_right(expected: Expected, summary: Mapping[str, Any]) -> bool:
    """Whether a diagnosis found the truth.

    Where the model never had the ability, the right verdict is that there was nothing to lose: the base is not clearly
    better than chance. ``undecided`` for any other reason is not right.

    Args:
        expected: the truth.
        summary: of the diagnosis.
    """
    verdict, evidence = summary["verdict"], summary["evidence"]
    if expected == "never there":
        lead = evidence["base"]["low"] - evidence["chance"]
        return bool(verdict == "undecided" and lead < summary["rule"]["least_lead"])
    return verdict in (HIDDEN if expected == "hidden" else ("unchanged",))


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
    return run_diagnosis(config, case_config, shape, progress=progress, around=_precision(config.precision))


def _precision(name: str) -> contextlib.AbstractContextManager[Any]:
    if name == "no":
        return contextlib.nullcontext()
    # Weights change while the context is open (training, pruning): a cache of them in bfloat16 would be stale.
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
