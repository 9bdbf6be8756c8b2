"""Fine-tune compiled programs, whose mechanism is known, as in the paper's Table 3, and try the instruments on them.

python recipes/tracr_study.py --config recipes/configs/nano/tracr.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import load_study


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(load_study("tracr"), argv, __doc__)


if __name__ == "__main__":
    main()
