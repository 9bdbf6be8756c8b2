"""Reproduce the paper's main effects at a small scale, with controls, and write a report.

accelerate launch recipes/reproduce.py --config recipes/configs/nano/reproduce.yaml
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from ftmech_hf.config import clean_exit, parse_config, to_dict
from ftmech_hf.report import figures
from ftmech_hf.report.claims import Claim, claims_json, judge, measure
from ftmech_hf.report.console import make_console, print_claims
from ftmech_hf.report.page import build_sections, render_page, write_origin
from ftmech_hf.reproduction import ReproduceConfig, SeedPlan
from ftmech_hf.runs import write_json, write_text
from ftmech_hf.tasks import PcfgShape
from ftmech_hf.training.sweep import run_cells


def write_report(config: ReproduceConfig, shape: PcfgShape, plans: list[SeedPlan]) -> list[Claim]:
    """Read the finished runs and write claims, tidy table, pictures and page into the output folder."""
    output = Path(config.output_dir)
    runs = {plan.seed: plan.folders for plan in plans}
    claims = judge({seed: measure(folders) for seed, folders in runs.items()})
    # makes the folder, too: the runs may lie elsewhere
    facts = {"seeds": config.seeds, **write_origin(output, "reproduce", to_dict(config, shape))}
    table = [
        {"id": claim.id, "unit": claim.unit, "seed": seed, "value": value}
        for claim in claims
        for seed, value in zip(claim.seeds, claim.values, strict=True)
    ]
    pd.DataFrame(table).to_parquet(output / "table.parquet", index=False)
    figures.overview(runs).savefig(output / "overview.png", dpi=110)
    write_json(output / "claims.json", claims_json(claims))
    write_text(output / "report.html", render_page(claims, build_sections(runs), facts))
    return claims


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        config, shape = parse_config(ReproduceConfig, PcfgShape, argv=argv, description=__doc__)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("num_processes: reproduce starts its own workers; launch it with --num_processes 1")
        plans = [SeedPlan(config, shape, seed) for seed in config.seeds]
        if cells := [cell for plan in plans for cell in plan.plan.unfinished()]:
            run_cells(cells, workers=config.workers, description="reproduce").check()
        claims = write_report(config, shape, plans)
        print_claims(claims)
        make_console().print(f"report: {Path(config.output_dir) / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main()
