"""Reproduce the paper's main effects at a small scale, with controls, and write a report.

accelerate launch recipes/reproduce.py --config recipes/configs/nano/reproduce.yaml
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ftmech_hf.config import clean_exit, parse_config, to_dict
from ftmech_hf.jobs.scheduler import run_cells
from ftmech_hf.report.claims import Claim, claims_json, judge
from ftmech_hf.report.console import describe_error, make_console, print_claims, print_failures
from ftmech_hf.report.page import write_origin
from ftmech_hf.runs import is_finished, write_json, write_text
from ftmech_hf.studies.pcfg.claims import MEASUREMENTS, measure
from ftmech_hf.studies.pcfg.figures import overview
from ftmech_hf.studies.pcfg.page import build_sections, render_page
from ftmech_hf.studies.pcfg.plan import ReproduceConfig, SeedPlan
from ftmech_hf.tasks import PcfgShape


def write_report(
    config: ReproduceConfig, shape: PcfgShape, plans: list[SeedPlan], failed: Mapping[str, str] | None = None
) -> list[Claim]:
    """Read the finished runs and write claims, tidy table, pictures and page into the output folder.

    Args:
        config: of the reproduction.
        shape: of its task.
        plans: one per seed.
        failed: run -> why it failed, for the page.

    Raises:
        ValueError: no run is finished that a claim rests on.
    """
    output = Path(config.output_dir)
    runs = {plan.seed: plan.folders for plan in plans}
    claims = judge(MEASUREMENTS, {seed: measure(folders) for seed, folders in runs.items()})
    if not claims:
        raise ValueError(f"output_dir: no run of {output} is finished")
    # makes the folder, too: the runs may lie elsewhere
    made = [folder for folders in runs.values() for folder in folders.values()]
    origin = write_origin(output, "reproduce", to_dict(config, shape), runs=made)
    missing = [name for plan in plans for name, folder in plan.plan.folders.items() if not is_finished(folder)]
    facts = {"seeds": config.seeds, "missing": missing, "failed": failed or {}, **origin}
    table = [
        {"id": claim.id, "unit": claim.unit, "seed": seed, "value": value}
        for claim in claims
        for seed, value in zip(claim.seeds, claim.values, strict=True)
    ]
    pd.DataFrame(table).to_parquet(output / "table.parquet", index=False)
    overview(runs).savefig(output / "overview.png", dpi=110)
    write_json(output / "claims.json", claims_json(claims))
    write_text(output / "report.html", render_page(claims, build_sections(runs), facts))
    return claims


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report; a run that failed keeps nothing else out of the report."""
    with clean_exit():
        config, shape = parse_config(ReproduceConfig, PcfgShape, argv=argv, description=__doc__)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("num_processes: reproduce starts its own workers; launch it with --num_processes 1")
        plans = [SeedPlan(config, shape, seed) for seed in config.seeds]
        failures, failed = "", {}
        if cells := [cell for plan in plans for cell in plan.plan.unfinished()]:
            outcome = run_cells(cells, workers=config.workers, description="reproduce")
            failures, failed = outcome.describe(), outcome.failed
        try:
            claims = write_report(config, shape, plans, {name: describe_error(e) for name, e in failed.items()})
        except ValueError as error:
            raise ValueError(failures or str(error)) from error
        print_claims(claims)
        print_failures(failed)
        make_console().print(f"report: {Path(config.output_dir) / 'report.html'}", soft_wrap=True)
        if failures:
            raise ValueError(failures)


if __name__ == "__main__":
    main()
