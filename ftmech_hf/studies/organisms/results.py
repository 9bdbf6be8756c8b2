"""What came out: every pair with its truth, its verdict and what rival methods say; the score; the page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ftmech_hf.report.claims import Claim, claims_json
from ftmech_hf.report.page import make_section, render_page
from ftmech_hf.runs import FinishedRun, write_json, write_text
from ftmech_hf.studies.diagnosis.case import FINETUNED, CaseConfig
from ftmech_hf.studies.diagnosis.score import DECIDES
from ftmech_hf.studies.diagnosis.signs import VerdictRule
from ftmech_hf.studies.organisms.claims import make_claims
from ftmech_hf.studies.organisms.edits import Planted, Shaken, read_noise, score_edits
from ftmech_hf.studies.organisms.figures import LABELS, reliability_figure, scores_figure
from ftmech_hf.studies.organisms.kinds import KINDS, TRUTH_OF, Truth
from ftmech_hf.studies.organisms.labels import agree, label_by_relearning
from ftmech_hf.studies.organisms.pairs import Pair, Split
from ftmech_hf.studies.organisms.plan import OrganismsPlan
from ftmech_hf.studies.organisms.robustness import TAMPERED, measure_robustness
from ftmech_hf.studies.organisms.scoring import (
    FEATURES,
    RIVALS,
    area_under_curve,
    confusion,
    constant_verdict,
    count_decisions,
    decide_by_probability,
    fit_probability,
    rates,
    rates_by_truth,
    read_features,
    read_rivals,
    score_disjoint,
)

KEPT = (
    "pair", "truth", "relearning_truth", "verdict", "probability", "uds", "cka", "lens", "probe", "revival", "disjoint",
    "split",
)  # fmt: skip
"""The first columns of ``pairs.parquet``."""
METHODS = ("probability", *RIVALS)
NOT_MEASURED = dict.fromkeys((*RIVALS, *(f"sign_{name}" for name in FEATURES)), math.nan)


def gather(plan: OrganismsPlan) -> pd.DataFrame:
    """One row for every pair that was diagnosed.

    Raises:
        ValueError: none was.
    """
    found = [(pair, run) for pair in plan.pairs if (run := plan.find(pair.diagnosis))]
    if not found:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    table = pd.DataFrame([_describe(plan, pair, run) for pair, run in found])
    fitted = fit_on_development(table)
    table["probability"] = probabilities(table, fitted)
    for name in TAMPERED:
        again = pd.DataFrame([_read_tampered(plan, pair, name) for pair, _ in found])
        again["probability"] = probabilities(again, fitted)
        for method in METHODS:
            table[f"{name}_{method}"] = again[method]
    return table[[*KEPT, *(name for name in table if name not in KEPT)]]


def _read_tampered(plan: OrganismsPlan, pair: Pair, name: str) -> dict[str, float]:
    run = plan.find(getattr(pair.tampered, name)) if pair.tampered else None
    return NOT_MEASURED | (read_scores(run) if run else {})


def _read_disjoint(plan: OrganismsPlan, pair: Pair) -> dict[str, float]:
    run = plan.find(pair.disjoint) if pair.disjoint else None
    return {"disjoint": score_disjoint(run.summary)} if run else {}


def _describe(plan: OrganismsPlan, pair: Pair, run: FinishedRun) -> dict[str, Any]:
    summary = run.summary
    evidence, world = summary["evidence"], pair.world
    truth = KINDS[pair.kind].truth
    return {
        "pair": pair.name,
        "truth": truth,
        **label_by_relearning(plan, pair, truth, evidence),
        "verdict": summary["verdict"],
        "right": TRUTH_OF.get(summary["verdict"]) == truth,
        **NOT_MEASURED,
        **(read_scores(run) if summary["signs"] else {}),
        **_read_disjoint(plan, pair),
        "split": world.split,
        "kind": pair.kind,
        "seed": world.seed,
        "preset": world.preset,
        "operator": world.operator,
        **{name: summary["facts"][name] for name in ("architecture", "parameters", "capability", "rows")},
        "base_accuracy": evidence["base"]["value"],
        "finetuned_accuracy": evidence["finetuned"]["value"],
        "chance": evidence["chance"],
        "reason": summary["reason"],
        "cpu_seconds": run.env.get("cpu_seconds"),
        "page": os.path.relpath(run.path / "report.html", plan.output),
    }


def read_scores(run: FinishedRun) -> dict[str, float]:
    """The rivals that a diagnosis measures, and the signs as numbers, named ``sign_pruning`` and so on."""
    features = read_features(run.summary["evidence"])
    return read_rivals(run.table, features) | {f"sign_{name}": value for name, value in features.items()}


def fit_on_development(table: pd.DataFrame) -> Any | None:
    """What says from the signs how likely an ability is hidden; of development pairs alone, None if too few."""
    lost = _measured(table) & table["truth"].isin(["hidden", "gone"]) & (table["split"] == "development") & agree(table)
    hidden = (table["truth"] == "hidden").to_numpy()[lost]
    return fit_probability(_signs(table)[lost], hidden) if len(set(hidden)) == 2 else None


def probabilities(table: pd.DataFrame, fitted: Any | None) -> np.ndarray:
    """How likely the ability is hidden, of pairs whose signs were measured; see :func:`fit_on_development`."""
    found, measured = np.full(len(table), math.nan), _measured(table)
    if fitted is not None and measured.any():
        found[measured] = fitted.predict_proba(_signs(table)[measured])[:, 1]
    return found


def _signs(table: pd.DataFrame) -> np.ndarray:
    return table[[f"sign_{name}" for name in FEATURES]].to_numpy(dtype=float)


def _measured(table: pd.DataFrame) -> np.ndarray:
    found: np.ndarray = ~np.isnan(_signs(table)).any(axis=1)
    return found


def score(table: pd.DataFrame, split: Split = "test") -> dict[str, Any]:
    """The score on the pairs of a part whose two labels agree.

    Args:
        table: of :func:`gather`.
        split: the part; of the development pairs it is no measurement, since what is fitted was fitted on them.

    Returns:
        ``pairs``, ``disagree`` (names of pairs that are left out), ``every`` (the same of all pairs with those, by what
        was done to them: ``pairs``, ``confusion``, rates and ``by_verdict``), ``measured`` (truth -> lost pairs that
        the area is of), ``confusion``, the rates of
        :func:`~ftmech_hf.studies.organisms.scoring.rates`, ``truths`` (the same for each truth), ``constant`` (the
        verdict that is right most often if it is always given, and how often), ``auc`` of the probability, ``rivals``
        (method -> auc), ``robustness`` (method -> that of
        :func:`~ftmech_hf.studies.organisms.robustness.measure_robustness`), ``by_verdict`` (verdict -> pairs and how
        many are what it says), ``decisions`` (of pairs whose ability is hidden or gone and whose signs were measured:
        how often the rule, and the probability where it is sure, are right, wrong and undecided).
    """
    test = table[table["split"] == split]
    used = test[agree(test)]
    stated = _stated(used)
    counts = stated["confusion"]
    lost = used[used["truth"].isin(["hidden", "gone"]) & used["sign_revival"].notna()]
    hidden = list(lost["truth"] == "hidden")
    return {
        "disagree": [*test[~agree(test)]["pair"]],
        "every": _stated(test),
        "measured": {truth: int((lost["truth"] == truth).sum()) for truth in ("hidden", "gone")},
        "auc": area_under_curve(list(lost["probability"]), hidden),
        **stated,
        "truths": {
            truth: {name: each._asdict() for name, each in row.items()} for truth, row in rates_by_truth(counts).items()
        },
        "constant": constant_verdict(counts),
        "rivals": {name: area_under_curve(list(lost[name]), hidden) for name in RIVALS},
        "decisions": {
            "the rule": count_decisions(list(lost["truth"]), [TRUTH_OF.get(each, "") for each in lost["verdict"]]),
            "all signs together": count_decisions(
                list(lost["truth"]), [*map(decide_by_probability, lost["probability"])]
            ),
        },
        "robustness": {method: measure_robustness(lost, method) for method in METHODS},
        "kinds": _by(used, "kind"),
        "presets": _by(used, "preset"),
        "operators": _by(used, "operator"),
    }


def _stated(table: pd.DataFrame) -> dict[str, Any]:
    """What verdicts state of pairs, beside what was done to them."""
    counts = confusion(list(table["truth"]), list(table["verdict"]))
    shares = {name: found and found._asdict() for name, found in rates(counts).items()}
    return {"pairs": len(table), "confusion": counts, **shares, "by_verdict": _by(table, "verdict")}


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
        "architectures": sorted(set(used["architecture"])),
        "parameters": [int(used["parameters"].min()), int(used["parameters"].max())],
        "tasks": sorted({str(each).rpartition("_")[0] for each in used["capability"]}),
        "rows": int(used["rows"].min()),
        "settings": {name: getattr(case, name) for name in DECIDES},
    }


def gather_edits(plan: OrganismsPlan, table: pd.DataFrame) -> tuple[list[tuple[Planted, FinishedRun]], list[Shaken]]:
    """The runs that looked for planted edits, and what noise did to pairs whose two labels agree; of test pairs."""
    planted = [(each, run) for each in plan.planted if each.world.split == "test" and (run := plan.find(each.run))]
    agreed = table[agree(table) & (table["split"] == "test")]
    truths: dict[str, Truth] = dict(zip(agreed["pair"], agreed["truth"], strict=True))
    shaken = [
        read_noise(truths[name], run.summary["evidence"]["tampering"]["noise"][FINETUNED])
        for name, made in plan.shaken.items() if name in truths and (run := plan.find(made))
    ]  # fmt: skip
    return planted, shaken


def store_score(plan: OrganismsPlan, table: pd.DataFrame, found: Mapping[str, Any]) -> None:
    """Write what the pages of diagnoses say of their verdicts, if a file is named for it and all runs are there.

    Args:
        plan: of the study.
        table: of :func:`gather`.
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
    table.to_parquet(plan.output / "pairs.parquet", index=False)
    found = score(table)
    found["development"] = score(table, "development")
    if plan.planted or plan.shaken:
        found["edits"] = score_edits(*gather_edits(plan, table))
    claims = make_claims(found, seeds=sorted(set(table[table["split"] == "test"]["seed"])))
    origin = {"seeds": plan.config.seeds, "hash": facts["hash"], "versions": facts["versions"]}
    write_json(plan.output / "score.json", {**found, **origin})
    store_score(plan, table, {**found, **origin})
    write_json(plan.output / "claims.json", claims_json(claims))
    sections = [
        make_section(
            "Hidden or gone: what each method says",
            "One mark for each test pair whose ability is lost and whose two labels agree. Best is a method that "
            "keeps the two colours apart.",
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
        __package__, claims=claims, sections=sections, facts=facts, pairs=rows, score=found, methods=LABELS
    )
    write_text(plan.output / "report.html", page)
    return claims
