"""Plant changes of known truth, and say how often a comparison finds them, and how often it finds nothing in nothing.

python recipes/compare_organisms.py --config recipes/configs/nano/compare_organisms.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import load_study


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(load_study("compare_organisms"), argv, __doc__)


if __name__ == "__main__":
    main()
