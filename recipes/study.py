"""Run a study by its name, or go on with it: make the runs that are not there, write its results, say what came out.

python recipes/study.py reproduce --config recipes/configs/nano/reproduce.yaml
"""

from __future__ import annotations

import sys

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.study import run_command
from ftmech_hf.studies import STUDIES, load_study


def main(argv: list[str] | None = None) -> None:
    """The first word is the study's name, the others are its settings."""
    with clean_exit():
        name, *words = list(sys.argv[1:] if argv is None else argv) or [""]
        if name in ("-h", "--help"):
            print(f"{__doc__}\nStudies: {', '.join(STUDIES)}; NAME --help shows the settings of one.")
            return
        study = load_study(name)
        run_command(study, words, study.question)


if __name__ == "__main__":
    main()
