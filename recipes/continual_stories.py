"""Delete features of stories one after another by several methods, and see what comes back and what goes with them.

python recipes/continual_stories.py --config recipes/configs/nano/continual_stories.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies.continual.stories.study import STORIES_STUDY


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        run_command(STORIES_STUDY, argv, __doc__)


if __name__ == "__main__":
    main()
