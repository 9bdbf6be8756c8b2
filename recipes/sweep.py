"""Run a grid of experiments side by side, one process per core or on Ray, and gather them in one tidy table.

python recipes/sweep.py --config recipes/configs/nano/sweep_grid.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import load_study


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(load_study("sweep"), argv, __doc__)


if __name__ == "__main__":
    main()
