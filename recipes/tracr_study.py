"""Fine-tune compiled programs, whose mechanism is known, as in the paper's Table 3, and try the instruments on them.

python recipes/tracr_study.py --config recipes/configs/nano/tracr.yaml
"""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.scheduler import run_cells
from ftmech_hf.report.console import make_console, print_failures, print_table
from ftmech_hf.studies.tracr.page import write_results
from ftmech_hf.studies.tracr.plan import TracrConfig, TracrPlan


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        (config,) = parse_config(TracrConfig, argv=argv, description=__doc__)
        plan = TracrPlan(config)
        failures = ""
        if cells := plan.unfinished():
            print(f"{len(plan.plan.folders)} runs, {len(plan.plan.unfinished())} of them to make", flush=True)
            outcome = run_cells(cells, workers=config.workers, description="tracr")
            failures = outcome.describe()
            print_failures(outcome.failed)
        try:
            results = write_results(plan)
        except ValueError as error:
            raise ValueError(failures or str(error)) from error
        print_table("Rank correlation with the paper's Table 3", results.agrees.round(2))
        print_table("The instruments on the compiled circuits", results.instruments.round(2))
        make_console().print(f"report: {Path(config.output_dir) / 'report.html'}", soft_wrap=True)
        if failures:
            raise ValueError(failures)


if __name__ == "__main__":
    main()
