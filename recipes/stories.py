"""Delete a feature of stories from a model that writes them, and bring it back, as in the paper's Table 1.

python recipes/stories.py --config recipes/configs/nano/stories.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import load_study


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(load_study("tinystories"), argv, __doc__)


if __name__ == "__main__":
    main()
