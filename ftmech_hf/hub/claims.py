"""The claims of a study that a model is part of, for its card."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ftmech_hf.report.claims import read_claims
from ftmech_hf.report.page import format_floor, format_interval, format_measured, format_verdict


def claims_of(results: Path, ids: Collection[str]) -> list[dict[str, str]]:
    """What a study says over its seeds in some of its claims, as text.

    Args:
        results: folder of its results.
        ids: of the claims.
    """
    return [
        {
            "id": claim.id,
            "statement": claim.statement,
            "floor": format_floor(claim),
            "measured": format_measured(claim),
            "interval": format_interval(claim),
            "bar": claim.bar,
            "verdict": format_verdict(claim),
        }
        for claim in read_claims(results)
        if claim.id in ids
    ]
