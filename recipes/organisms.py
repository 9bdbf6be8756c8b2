"""Make pairs of models whose truth is known, diagnose each, and say how often the verdict is right.

make organisms
python recipes/organisms.py --config recipes/configs/nano/organisms.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import load_study


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(load_study("organisms"), argv, __doc__)


if __name__ == "__main__":
    main()
