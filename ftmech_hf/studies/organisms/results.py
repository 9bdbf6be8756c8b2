"""What came out: the score of all pairs, the claims, the pictures and the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.report.claims import Claim, claims_json
from ftmech_hf.report.page import make_section, render_page
from ftmech_hf.runs import write_json, write_table, write_text
from ftmech_hf.statistics.intervals import Share
from ftmech_hf.statistics.seeds import share_in_clusters
from ftmech_hf.studies.diagnosis.case import FINETUNED, CaseConfig
from ftmech_hf.studies.diagnosis.score import DECIDES
from ftmech_hf.studies.diagnosis.signs import VerdictRule
from ftmech_hf.studies.organisms.claims import find_too_few, make_claims
from ftmech_hf.studies.organisms.edits import Shaken, Sought, read_noise, read_sought, score_edits
from ftmech_hf.studies.organisms.figures import LABELS, reliability_figure, scores_figure
from ftmech_hf.studies.organisms.kinds import KINDS, TRUTH_OF, Truth
from ftmech_hf.studies.organisms.labels import agree
from ftmech_hf.studies.organisms.pairs import Split
from ftmech_hf.studies.organisms.pairs_table import METHODS, gather
from ftmech_hf.studies.organisms.plan import OrganismsPlan
from ftmech_hf.studies.organisms.robustness import measure_robustness
from ftmech_hf.studies.organisms.scoring import (
    IS_OF,
    RIVALS,
    area_under_curve,
    confusion,
    constant_verdict,
    count_decisions,
    decide_by_probability,
    is_called,
    rates,
    rates_by_truth,
)


def score(table: pd.DataFrame, split: Split = "test") -> dict[str, Any]:
    """The score on the pairs of a part whose two labels agree.

    Args:
        table: of :func:`~ftmech_hf.studies.organisms.pairs_table.gather`.
        split: the part; of the development pairs it is no measurement, since what is fitted was fitted on them.

    Returns:
        ``pairs``, ``disagree`` (names of pairs that are left out), ``every`` (the same of all pairs with those, by what
        was done to them: ``pairs``, ``confusion``, rates and ``by_verdict``), ``measured`` (truth -> lost pairs that
        the area is of), ``confusion``, the rates of
        :func:`~ftmech_hf.studies.organisms.scoring.rates`, ``truths`` (the same for each truth), ``constant`` (the
        verdict that is right most often if it is always given, and how often), ``auc`` of the probability, ``rivals``
        (method -> auc), ``every_areas`` (method -> auc of all lost pairs with those whose labels disagree, of which one
        is a speed as the revival is), ``own_gone`` (the same of the pairs whose gone ones were the base once, and are
        not made of the control: ``pairs``, how many of them ``right``, ``undecided``, and ``areas``),
        ``robustness`` (method -> that of :func:`~ftmech_hf.studies.organisms.robustness.measure_robustness`),
        ``by_verdict`` (verdict -> pairs and how many are what it says), ``of_seeds`` (the same of each seed),
        ``decisions`` (of pairs whose ability is hidden or gone: how often the rule, and the
        probability where it is sure, are right, wrong and undecided; without signs there is no probability).
    """
    test = table[table["split"] == split]
    used = test[agree(test)]
    stated = _stated(used)
    counts = stated["confusion"]
    either = used[used["truth"].isin(["hidden", "gone"])]
    lost = _with_signs(either)
    hidden = list(lost["truth"] == "hidden")
    return {
        "disagree": [*test[~agree(test)]["pair"]],
        "every": _stated(test),
        "measured": {truth: int((lost["truth"] == truth).sum()) for truth in ("hidden", "gone")},
        "auc": area_under_curve(list(lost["probability"]), hidden),
        **stated,
        "truths": {
            truth: {name: each._asdict() for name, each in row.items()}
            for truth, row in rates_by_truth(*(list(used[name]) for name in ("truth", "verdict", "seed"))).items()
        },
        "constant": constant_verdict(counts),
        "rivals": {name: area_under_curve(list(lost[name]), hidden) for name in RIVALS},
        "every_areas": _areas(_with_signs(test[test["truth"].isin(["hidden", "gone"])])),
        "own_gone": _without_children(used, lost),
        "decisions": {
            "the rule": count_decisions(list(either["truth"]), [TRUTH_OF.get(each, "") for each in either["verdict"]]),
            "all signs together": count_decisions(
                list(either["truth"]), [*map(decide_by_probability, either["probability"])]
            ),
        },
        "robustness": {method: measure_robustness(lost, method) for method in METHODS},
        "kinds": _by(used, "kind"),
        "of_seeds": _by(used, "seed"),
        "presets": _by(used, "preset"),
        "operators": _by(used, "operator"),
    }


def _without_children(used: pd.DataFrame, lost: pd.DataFrame) -> dict[str, Any]:
    """Gone pairs that had it once: others are made of the very model that most signs are compared with."""
    children = [name for name, kind in KINDS.items() if kind.never_had]
    own = used[(used["truth"] == "gone") & ~used["kind"].isin(children)]
    apart = lost[~lost["kind"].isin(children)]
    return {
        "pairs": len(own), "right": int(own["right"].sum()),
        "undecided": int((~own["verdict"].isin(TRUTH_OF)).sum()),
        "areas": _areas(apart),
    }  # fmt: skip


def _with_signs(table: pd.DataFrame) -> pd.DataFrame:
    """The pairs that were not judged by their answers alone."""
    return table[table["sign_revival"].notna()]


def _areas(lost: pd.DataFrame) -> dict[str, float | None]:
    """Of every method, how often a hidden pair has a higher score than a gone one."""
    hidden = list(lost["truth"] == "hidden")
    return {name: area_under_curve(list(lost[name]), hidden) for name in METHODS}


def _stated(table: pd.DataFrame) -> dict[str, Any]:
    """What verdicts state of pairs, beside what was done to them."""
    counts = confusion(list(table["truth"]), list(table["verdict"]))
    shares = {name: found and _over_seeds(name, table)._asdict() for name, found in rates(counts).items()}
    by_verdict: dict[str, dict[str, Any]] = {**_by(table, "verdict")}
    for verdict, each in table.groupby("verdict"):
        found = share_in_clusters(list(each["right"]), list(each["seed"]))
        by_verdict[str(verdict)] |= {"low": found.low, "high": found.high}
    return {"pairs": len(table), "confusion": counts, **shares, "by_verdict": by_verdict}


def _over_seeds(name: str, table: pd.DataFrame) -> Share:
    """A rate of :func:`rates`, with an interval that knows of seeds."""
    of = table[table["truth"].isin(IS_OF[name])]
    stated = of["verdict"].map(TRUTH_OF).fillna("undecided")
    called = [is_called(name, *each) for each in zip(of["truth"], stated, strict=True)]
    return share_in_clusters(called, list(of["seed"]))


def _by(table: pd.DataFrame, column: str) -> dict[str, dict[str, int]]:
    return {
        str(name): {
            "pairs": len(each), "right": int(each["right"].sum()),
            "undecided": int((~each["verdict"].isin(TRUTH_OF)).sum()),
        }
        for name, each in table.groupby(column)
    }  # fmt: skip


def scope_of(table: pd.DataFrame, case: CaseConfig) -> dict[str, Any]:
    """What was scored, with which :mod:`ftmech_hf.studies.diagnosis.score` compares what a diagnosis is of."""
    used = table[(table["split"] == "test") & agree(table)]
    return {
        "cells": sorted(
            {
                (arch, str(asked).rpartition("_")[0])
                for arch, asked in zip(used["architecture"], used["capability"], strict=True)
            }
        ),
        "parameters": [int(used["parameters"].min()), int(used["parameters"].max())],
        "rows": int(used["rows"].min()),
        "settings": {name: getattr(case, name) for name in DECIDES},
    }


def gather_edits(plan: OrganismsPlan, table: pd.DataFrame) -> tuple[list[Sought], list[Shaken]]:
    """What looking for planted edits found, and what noise did to pairs whose two labels agree; of test pairs."""
    tested = [each for each in plan.planted if each.world.split == "test"]
    sought = [found for each in tested if (found := read_sought(each, plan.find))]
    agreed = table[agree(table) & (table["split"] == "test")]
    named = zip(agreed["pair"], agreed["seed"], agreed["truth"], strict=True)
    pairs: dict[str, tuple[int, Truth]] = {pair: (int(seed), truth) for pair, seed, truth in named}
    shaken = [
        read_noise(*pairs[name], run.summary["evidence"]["tampering"]["noise"][FINETUNED])
        for name, made in plan.shaken.items() if name in pairs and (run := plan.find(made))
    ]  # fmt: skip
    return sought, shaken


def store_score(plan: OrganismsPlan, table: pd.DataFrame, found: Mapping[str, Any]) -> None:
    """Write what the pages of diagnoses say of their verdicts, if a file is named for it and all runs are there.

    Args:
        plan: of the study.
        table: of :func:`~ftmech_hf.studies.organisms.pairs_table.gather`.
        found: the score, with its origin.
    """
    if plan.config.score_file and not plan.missing and found["pairs"]:
        kept = ("pairs", "right", "undecided", "constant", "truths", "by_verdict", "confusion", "disagree",
                "every", "seeds", "hash", "versions")  # fmt: skip
        stored = {name: found[name] for name in kept} | {
            "rule": vars(VerdictRule()),
            "scope": scope_of(table, plan.case),
        }
        write_json(Path(plan.config.score_file), stored)


def write_results(plan: OrganismsPlan) -> list[Claim]:
    """Gather what is finished and write the table of pairs, the score, the claims, the pictures and the page."""
    table = gather(plan)
    facts = plan.write_origin("organisms")
    write_table(plan.results / "pairs.parquet", table)
    found = score(table)
    found["development"] = score(table, "development")
    if plan.planted or plan.shaken:
        found["edits"] = score_edits(*gather_edits(plan, table))
    found["too_few"] = find_too_few(found)
    seeds = sorted(set(table[table["split"] == "test"]["seed"]))
    claims = make_claims(found, seeds, whole=not plan.missing)
    origin = {"seeds": plan.config.seeds, "hash": facts["hash"], "versions": facts["versions"]}
    write_json(plan.results / "score.json", {**found, **origin})
    store_score(plan, table, {**found, **origin})
    write_json(plan.results / "claims.json", claims_json(claims))
    sections = [
        make_section(
            "Hidden or gone: what each method says",
            "One mark for each test pair whose ability is lost and whose two labels agree. Best is a method whose "
            "marks of hidden and of gone pairs lie at different heights.",
            scores_figure(table[(table["split"] == "test") & agree(table)]),
            "Scores of hidden and gone test pairs, by method",
            ["auc"],
        ),
        make_section(
            "Is the probability what it says?",
            "Test pairs by the probability that their ability is hidden, which was fitted on development pairs: how "
            "many of each fifth are.",
            reliability_figure(table[(table["split"] == "test") & agree(table)]),
            "Share of hidden pairs by probability",
        ),
    ]
    rows = table.assign(agrees=agree(table)).to_dict("records")
    page = render_page(
        __package__,
        claims=claims,
        sections=sections,
        facts=facts,
        pairs=rows,
        score=found,
        methods=LABELS,
        bits=plan.config.rounded_bits,
    )
    write_text(plan.results / "report.html", page)
    return claims
