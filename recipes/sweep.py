"""Run a grid of experiments side by side, one process per core or on Ray, and gather them in one tidy table.

python recipes/sweep.py --config recipes/configs/nano/sweep_grid.yaml
"""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.scheduler import run_cells
from ftmech_hf.report.console import make_console, print_failures
from ftmech_hf.studies.sweep.console import print_sweep
from ftmech_hf.studies.sweep.page import write_results
from ftmech_hf.studies.sweep.plan import read_sweep


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, gather, report."""
    with clean_exit():
        sweep = read_sweep(argv, __doc__)
        config = sweep.config
        failures = ""
        if unfinished := sweep.plan.unfinished():
            found = len(sweep.plan.folders) - len(unfinished)
            print(f"{len(sweep.plan.folders)} runs, {found} of them finished before", flush=True)
            outcome = run_cells(unfinished, workers=config.workers, backend=config.backend, description="sweep")
            failures = outcome.describe()
            print_failures(outcome.failed)
        try:
            results = write_results(sweep)
        except ValueError as error:
            raise ValueError(failures or str(error)) from error
        print_sweep(results)
        make_console().print(f"results: {Path(config.output_dir) / 'report.html'}", soft_wrap=True)
        if failures:
            raise ValueError(failures)


if __name__ == "__main__":
    main()
