"""What came out of the study of safety fine-tuning: claims, a tidy table, pictures and the page."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.page import render_page
from ftmech_hf.runs import FinishedRun, write_json, write_table, write_text
from ftmech_hf.studies.diagnosis.verdicts import verdicts_table
from ftmech_hf.studies.safety.claims import MEASUREMENTS, measure
from ftmech_hf.studies.safety.plan import SafetyPlan
from ftmech_hf.studies.safety.sections import build_sections
from ftmech_hf.tasks.safety_baseline import linear_baselines


def runs_table(runs: Mapping[int, Mapping[str, FinishedRun]]) -> pd.DataFrame | None:
    """The tables of some runs, with columns for seed and model; None if there is none."""
    parts = [made.table.assign(seed=seed, model=name) for seed, each in runs.items() for name, made in each.items()]
    return pd.concat(parts, ignore_index=True) if parts else None


def answers_table(plan: SafetyPlan) -> pd.DataFrame:
    """What every model of every seed answered to every mixture of prompts.

    Raises:
        ValueError: no run is finished.
    """
    table = runs_table(plan.finished(plan.answers))
    if table is None:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    return table


def write_results(plan: SafetyPlan) -> list[Claim]:
    """Read the finished runs and write claims, tidy table, pictures and page into the folder of the results.

    Raises:
        ValueError: no run is finished that a claim rests on.
    """
    table = answers_table(plan)
    inside = {name: plan.finished(runs) for name, runs in plan.analyses.items()}
    by_seed = {
        seed: measure(made, {name: each[seed] for name, each in inside.items()})
        for seed, made in plan.finished(plan.answers).items()
    }
    claims = judge(MEASUREMENTS, by_seed)
    facts = plan.write_origin("safety")
    write_table(plan.results / "table.parquet", table)
    write_json(plan.results / "claims.json", claims_json(claims))
    easy = linear_baselines(seed=plan.config.seeds[0])
    write_json(plan.results / "linear_baselines.json", easy._asdict())
    sections = build_sections(table, {name: runs_table(runs) for name, runs in inside.items()})
    verdicts = verdicts_table(plan.finished(plan.diagnoses))
    write_json(plan.results / "verdicts.json", verdicts)
    page = render_page(__package__, claims=claims, sections=sections, facts=facts, easy=easy, verdicts=verdicts)
    write_text(plan.results / "report.html", page)
    return claims
