"""Teach a model one task after another by several methods, see what each keeps, and write a report, with controls.

python recipes/continual.py --config recipes/configs/nano/continual.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import load_study


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(load_study("continual"), argv, __doc__)


if __name__ == "__main__":
    main()
