"""Was what was planted found? A comparison's first findings, beside what is known of the pair."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.studies.compare_organisms.kinds import ORGANISMS, Organism

FIRST = 10
"""Findings that are read: those that stand out most of all kinds together, as ``report.json`` has them."""


def place_of(findings: Sequence[Mapping[str, Any]], organism: Organism) -> int | None:
    """At which place, counted from 1, a finding first names where what was planted is; None if not in :data:`FIRST`.

    Args:
        findings: of ``report.json``, those that stand out most first.
        organism: of the pair.
    """
    for number, each in enumerate(findings[:FIRST]):
        said = f"{each['what']} {each['where']}"
        if (
            each["stands_out"]
            and each["kind"] in organism.kinds
            and all(re.search(sign, said) for sign in organism.signs)
        ):
            return number + 1
    return None


def named_wrongly(findings: Sequence[Mapping[str, Any]], name: str) -> tuple[int, int]:
    """How many signs of other organisms of the same base a page of one matches, and of how many: the control.

    Organisms with the same signs count once, and those that have the same as this one not at all.
    """
    own = ORGANISMS[name]
    others = {each.signs: each for each in ORGANISMS.values() if each.base == own.base and each.signs != own.signs}
    return sum(place_of(findings, each) is not None for each in others.values()), len(others)


def describe_pair(name: str, seed: int, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table: what was planted, at which place it was found, and what else stood out.

    Args:
        name: of the organism, or of a change that teaches nothing.
        seed: of all that is in it.
        summary: of the comparison.
    """
    organism, findings = ORGANISMS.get(name), summary["findings"]
    standing = [each for each in findings if each["stands_out"]]
    place = None if organism is None else place_of(findings, organism)
    wrong, others = (0, 0) if organism is None else named_wrongly(findings, name)
    return {
        "pair": name,
        "seed": seed,
        "taught": organism is not None,
        "planted": "nothing" if organism is None else organism.planted,
        "place": place,
        "found": place is not None,
        "others_named": wrong,
        "others": others,
        "standing": len(standing),
        "kinds": ", ".join(dict.fromkeys(each["kind"] for each in standing)),
        "first": findings[0]["what"] if findings else "",
        "null_pages": summary["facts"]["null_models"] if summary["null_rate"] is not None else 0,
        "null_standing": round((summary["null_rate"] or 0.0) * summary["facts"]["null_models"]),
        "ratio": findings[0]["score"] / max(findings[0]["null_score"], 1e-9) if findings else 0.0,
        "seconds": sum(summary["seconds"].values()),
        "answer": summary["answer"],
    }


def score_pairs(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many organisms were found, kind by kind and together, and on how many pages of nothing anything stood out.

    ``others_named`` is how often the signs of another organism are matched on a page of one, see
    :func:`named_wrongly`. ``null_alarms`` are those of the null models, each beside the others of its comparison, one
    less.
    """
    taught = [pair for pair in pairs if pair["taught"]]
    nothing = [pair for pair in pairs if not pair["taught"]]
    alarms = sum(pair["standing"] > 0 for pair in nothing)
    kinds = {
        name: {"found": sum(pair["found"] for pair in of_kind), "of": len(of_kind)}
        for name in dict.fromkeys(pair["pair"] for pair in taught)
        if (of_kind := [pair for pair in taught if pair["pair"] == name])
    }
    return {
        "organisms": _share(sum(pair["found"] for pair in taught), len(taught)),
        "kinds_found": {"found": sum(2 * each["found"] > each["of"] for each in kinds.values()), "of": len(kinds)},
        "by_kind": kinds,
        "false_alarms": _share(alarms, len(nothing)),
        "others_named": _share(sum(pair["others_named"] for pair in taught), sum(pair["others"] for pair in taught)),
        "null_alarms": _share(sum(pair["null_standing"] for pair in pairs), sum(pair["null_pages"] for pair in pairs)),
        "most_seconds": max((pair["seconds"] for pair in pairs), default=0.0),
    }


def _share(right: int, number: int) -> dict[str, Any]:
    if not number:
        return {"number": 0, "of": 0, "share": None, "low": None, "high": None}
    found = share_interval(right, number)
    return {"number": right, "of": number, "share": found.value, "low": found.low, "high": found.high}
