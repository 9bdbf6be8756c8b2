"""The table of pairs: of each its truth, its verdict, what rival methods say, and how likely its ability is hidden."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.organisms.kinds import KINDS, TRUTH_OF
from ftmech_hf.studies.organisms.labels import agree, label_by_relearning
from ftmech_hf.studies.organisms.pairs import Pair
from ftmech_hf.studies.organisms.plan import OrganismsPlan
from ftmech_hf.studies.organisms.robustness import TAMPERED
from ftmech_hf.studies.organisms.scoring import (
    FEATURES,
    RIVALS,
    fit_probability,
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
        "page": plan.page_of(run),
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
