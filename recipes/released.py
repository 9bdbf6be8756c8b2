"""The models that are released of each study: which run, what it is called on the Hub, and which claims rest on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ftmech_hf.studies.pcfg.claims import CLAIMS_OF_MODELS


class Released(NamedTuple):
    """One released model.

    Attributes:
        name: on the Hub, behind the prefix of all.
        claims: ids of the study's claims that its card shows.
    """

    name: str
    claims: tuple[str, ...]


def _reproduced(run: str, name: str) -> Released:
    return Released(name, CLAIMS_OF_MODELS[run])


RELEASED: Mapping[str, Mapping[str, Released]] = {
    "reproduce": {
        "base-low": _reproduced("base-low", "low"),
        "base-high": _reproduced("base-high", "high"),
        "base-control": _reproduced("base-control", "control"),
        "finetuned-low": _reproduced("finetuned-low", "low-finetuned"),
        "finetuned-high": _reproduced("finetuned-high", "high-finetuned"),
        "reversed-low": _reproduced("reversed-low", "low-reversed"),
        "reversed-control": _reproduced("reversed-control", "control-reversed"),
    },
    "tinystories": {
        "base": Released("stories", ("base_asked", "base_not_asked")),
        "delete-f-r-large": Released("stories-deleted", ("deleted_large", "randomised", "probe_gap")),
        "reverse-delete-f-r-large": Released("stories-reversed", ("early", "late", "loss_ratio")),
        "control": Released("stories-control", ("control_asked", "probe_control")),
        "reverse-control": Released("stories-control-reversed", ("early", "loss_ratio")),
    },
    "safety": {
        "base": Released("safety", ("base_safe", "base_unsafe")),
        "ssft": Released("safety-ssft", ("ssft_safe", "ssft_null", "jb_gap", "outside", "add", "ablate")),
        "dpo": Released("safety-dpo", ("dpo_safe", "dpo_null", "dpo_is_unlearn")),
        "unlearn": Released("safety-unlearned", ("unlearn_safe", "unlearn_null", "dpo_is_unlearn")),
        "benign": Released("safety-benign", ("benign_unsafe", "outside_benign", "add_benign")),
        "never-ssft": Released("safety-control", ("never_unsafe", "never_jb", "soft_never")),
    },
    "continual": {
        "base": Released("continual", ("gate_count_a", "gate_index_a", "gate_token_at_null")),
        "plain-s1-4-index_c": Released("continual-finetuned", ("gate_learned", "a1", "a6")),
        "ldifs-previous-s1-4-index_c": Released("continual-ldifs", ("a2", "a3", "a4")),
        "own-answers-s1-4-index_c": Released("continual-control", ("a1_null",)),
        "never": Released("continual-never", ("a8", "a8_random")),
    },
    "retrieval": {
        "base": Released("library", ("gate_one", "gate_several", "gate_missing")),
        "closed-full-2": Released("library-closed", ("b1", "b3", "b5", "read_lost", "look_lost")),
        "closed-terse-2": Released("library-terse", ("b2",)),
        "retrieved-full-2": Released("library-retrieved", ("b1_control",)),
        "reversed-closed-full-2": Released("library-reversed", ("b7",)),
        "heart": Released("library-control", ("gate_heart", "b7")),
    },
}
"""Name of a study -> name of a run of it, without its seed -> the model."""
