"""Score the instruments that say which parts carry an answer on small compiled programs, of which that is known.

python recipes/instruments.py --config recipes/configs/nano/instruments.yaml

The programs are compiled when they are needed: pip install "ftmech_hf[tracr]".
"""

from __future__ import annotations

import pandas as pd

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import print_job, print_table, step_bar
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.tracr.instrument_score import InstrumentsConfig, score_instruments


def main(argv: list[str] | None = None) -> None:
    """Parse, score, say what came out."""
    with clean_exit():
        (config,) = parse_config(InstrumentsConfig, argv=argv, description=__doc__)
        with step_bar("instruments", "programs") as progress:
            run = score_instruments(config, progress=progress)
        print_table("Over programs", pd.DataFrame(FinishedRun(run.path).summary["scores"]).round(2))
        print_job(run)


if __name__ == "__main__":
    main()
