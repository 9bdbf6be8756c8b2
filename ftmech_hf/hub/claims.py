"""The claims of a study that a model is part of, for its card."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ftmech_hf.report.claims import leaning, name_claims, read_claims
from ftmech_hf.report.page import format_floor, format_interval, format_measured, format_verdict


def claims_of(results: Path, ids: Collection[str]) -> list[dict[str, str]]:
    """What a study says over its seeds in some of its claims, as text.

    A statement that says "the same" of one that is not among them stands behind that one.

    Args:
        results: folder of its results.
        ids: of the claims.
    """
    found = read_claims(results)
    before, names = leaning(found), name_claims(found)
    return [
        {
            "id": claim.id,
            "statement": claim.statement if claim.id not in before or before[claim.id].id in ids else names[claim.id],
            "floor": format_floor(claim),
            "measured": format_measured(claim),
            "interval": format_interval(claim),
            "bar": claim.bar,
            "verdict": format_verdict(claim, found),
        }
        for claim in found
        if claim.id in ids
    ]
