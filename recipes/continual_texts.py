"""Teach any model data sets one after another by several LoRA methods, and see what it still answers of each.

python recipes/continual_texts.py --base USER/MODEL --datasets folder/one folder/two
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies.continual.texts import TEXTS_STUDY


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(TEXTS_STUDY, argv, __doc__)


if __name__ == "__main__":
    main()
