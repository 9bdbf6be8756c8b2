"""Say whether a capability is unchanged, behind a wrapper, weakened or gone in a fine-tuned model, and why.

python recipes/diagnose.py --config recipes/configs/nano/diagnose.yaml
python recipes/diagnose.py --base BASE --finetuned TUNED --dataset FOLDER --output_dir runs/diagnosis
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import step_bar
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.case import ExaminationConfig
from ftmech_hf.studies.diagnosis.console import print_diagnosis
from ftmech_hf.studies.diagnosis.diagnosis import DiagnoseConfig, diagnose
from ftmech_hf.studies.diagnosis.page import render_diagnosis
from ftmech_hf.tasks import PcfgShape


def main(argv: list[str] | None = None) -> None:
    """Parse, examine, say the verdict and where the page is."""
    with clean_exit():
        config, examination, shape = parse_config(
            DiagnoseConfig, ExaminationConfig, PcfgShape, argv=argv, description=__doc__
        )
        with step_bar("diagnose", "instruments") as progress:
            run = diagnose(config, examination, shape, write_page=render_diagnosis, progress=progress)
        print_diagnosis(run, FinishedRun(run.path).summary)


if __name__ == "__main__":
    main()
