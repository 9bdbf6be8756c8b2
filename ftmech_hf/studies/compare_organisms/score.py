"""Was what was planted found? A comparison's first findings, beside what is known of the pair."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftmech_hf.statistics.intervals import Share, share_interval
from ftmech_hf.statistics.seeds import share_in_clusters
from ftmech_hf.studies.compare_organisms.kinds import ORGANISMS, Organism

FIRST = 10
"""Findings that are read: those that stand out most of all kinds together, as ``report.json`` has them."""


def place_of(findings: Sequence[Mapping[str, Any]], organism: Organism, *, any_kind: bool = False) -> int | None:
    """At which place, counted from 1, a finding first names where what was planted is; None if not in :data:`FIRST`.

    Args:
        findings: of ``report.json``, those that stand out most first.
        organism: of the pair.
        any_kind: whether findings of all kinds count, as they did at first.
    """
    for number, each in enumerate(findings[:FIRST]):
        said = f"{each['what']} {each['where']}"
        counts = each["stands_out"] and (any_kind or each["kind"] in organism.kinds)
        if counts and all(re.search(sign, said) for sign in organism.signs):
            return number + 1
    return None


def other_signs(name: str) -> dict[str, Organism]:
    """Sign -> an organism of the same base that has it, of all signs that this one does not have."""
    own = ORGANISMS[name]
    return {
        " and ".join(each.signs): each
        for each in ORGANISMS.values() if each.base == own.base and each.signs != own.signs
    }  # fmt: skip


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
    others = {} if organism is None else other_signs(name)
    return {
        "pair": name,
        "seed": seed,
        "taught": organism is not None,
        "planted": "nothing" if organism is None else organism.planted,
        "place": place,
        "found": place is not None,
        "any_kind": organism is not None and place_of(findings, organism, any_kind=True) is not None,
        "looked_for": list(others),
        "named": [sign for sign, other in others.items() if place_of(findings, other) is not None],
        "standing": len(standing),
        "kinds": ", ".join(dict.fromkeys(each["kind"] for each in standing)),
        "first": findings[0]["what"] if findings else "",
        "null_pages": summary["facts"]["null_models"] if summary["null_rate"] is not None else 0,
        "null_standing": round((summary["null_rate"] or 0.0) * summary["facts"]["null_models"]),
        "ratio": _times_the_nulls(findings[0]) if findings else 0.0,
        "seconds": sum(summary["seconds"].values()),
        "answer": summary["answer"],
    }


def _times_the_nulls(finding: Mapping[str, Any]) -> float | None:
    """How many times the null models' highest score a finding has; None where these have none at all."""
    score, null = float(finding["score"]), float(finding["null_score"])
    return score / null if null > 0 else None if score > 0 else 0.0


def score_pairs(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many organisms were found, kind by kind and together, and on how many pages of nothing anything stood out.

    Intervals are over pairs, and as much wider as pairs of one kind are alike, or those of one seed, which share their
    bases, if that is more; of ``null_alarms`` over null models.

    ``any_kind`` is how many organisms are named by a finding of any kind. ``by_sign`` says of every sign on how many
    pages of organisms of the same base that do not have it, it is found all the same, and ``others_named`` is that of
    the sign of which that is most often, with the highest lower and the highest upper end of any: the control, which
    fails if any sign does, and holds if all do. ``null_alarms`` are the alarms of the null models, each beside the
    others of its comparison, one less.
    """
    taught = [pair for pair in pairs if pair["taught"]]
    nothing = [pair for pair in pairs if not pair["taught"]]
    kinds = {
        name: {"found": sum(pair["found"] for pair in of_kind), "of": len(of_kind)}
        for name in dict.fromkeys(pair["pair"] for pair in taught)
        if (of_kind := [pair for pair in taught if pair["pair"] == name])
    }
    signs = dict.fromkeys(sign for pair in taught for sign in pair["looked_for"])
    by_sign = {
        sign: _share_of([{**pair, "named": sign in pair["named"]} for pair in without], "named")
        for sign in signs if (without := [pair for pair in taught if sign in pair["looked_for"]])
    }  # fmt: skip
    return {
        "organisms": _share_of(taught, "found"),
        "kinds_found": {"found": sum(2 * each["found"] > each["of"] for each in kinds.values()), "of": len(kinds)},
        "by_kind": kinds,
        "false_alarms": _share_of([{**pair, "alarm": pair["standing"] > 0} for pair in nothing], "alarm"),
        "any_kind": _share_of(taught, "any_kind"),
        "by_sign": by_sign,
        "others_named": _most(list(by_sign.values())),
        "null_alarms": _share(sum(pair["null_standing"] for pair in pairs), sum(pair["null_pages"] for pair in pairs)),
        "most_seconds": max((pair["seconds"] for pair in pairs), default=0.0),
    }


def _most(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The largest of some shares, with the highest ends that any of them has."""
    if not shares:
        return _share(0, 0)
    low, high = (max(each[end] for each in shares) for end in ("low", "high"))
    return {**max(shares, key=lambda each: each["share"]), "low": low, "high": high}


def _share_of(pairs: Sequence[Mapping[str, Any]], what: str) -> dict[str, Any]:
    """The share of pairs of which something is true; its interval knows that pairs of a kind, or a seed, are alike."""
    counted = [bool(pair[what]) for pair in pairs]
    alike = ([pair[by] for pair in pairs] for by in ("pair", "seed"))
    return _share(sum(counted), len(counted), share_in_clusters(counted, *alike) if counted else None)


def _share(right: int, number: int, found: Share | None = None) -> dict[str, Any]:
    """A share with its interval, that of single ones if not given."""
    if not number:
        return {"number": 0, "of": 0, "share": None, "low": None, "high": None}
    share, low, high = found or share_interval(right, number)
    return {"number": right, "of": number, "share": share, "low": low, "high": high}
