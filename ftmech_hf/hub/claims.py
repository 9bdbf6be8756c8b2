"""The claims of a reproduction that a model is part of, for its card."""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.report.claims import read_claims
from ftmech_hf.report.page import format_interval, format_value, verdict

CLAIMS = {
    "base-low": ("base_low_a", "base_low_b", "probe_gap"),
    "base-high": ("base_high_a", "base_high_b"),
    "base-control": ("revival_ratio",),
    "finetuned-low": (
        "low_b_cte1", "low_b_cte0", "low_a", "pruned_a", "random_pruned_a", "probe_gap", "probe_shuffled",
    ),
    "finetuned-high": ("high_b_cte0", "high_a"),
    "reversed-low": ("revival_ratio",),
    "reversed-control": ("revival_ratio",),
}  # fmt: skip
"""Name of a run in a reproduction -> claims of :mod:`ftmech_hf.studies.pcfg.claims` that rest on it."""


def claims_of(reproduction: Path, run: str) -> list[dict[str, str]]:
    """What a reproduction says over its seeds that rests on one of its runs, as text; nothing for any other run."""
    return [claim for claim in all_claims(reproduction) if claim["id"] in CLAIMS.get(run, ())]


def all_claims(reproduction: Path) -> list[dict[str, str]]:
    """All claims of a reproduction, as text."""
    claims = read_claims(reproduction)
    return [
        {
            "id": claim.id,
            "statement": claim.statement,
            "measured": format_value(claim.measured, claim.unit),
            "interval": format_interval(claim),
            "bar": claim.bar,
            "verdict": verdict(claim),
        }
        for claim in claims
    ]
