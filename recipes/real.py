"""Tune SmolLM2 into nine organisms of known truth, and diagnose each: hidden, unchanged, or never there.

make real
python recipes/real.py --config recipes/configs/nano/real.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import load_study


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(load_study("real"), argv, __doc__)


if __name__ == "__main__":
    main()
