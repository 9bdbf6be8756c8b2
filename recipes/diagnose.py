"""Say whether a capability is unchanged, behind a wrapper, weakened or gone in a fine-tuned model, and why.

python recipes/diagnose.py --config recipes/configs/nano/diagnose.yaml
python recipes/diagnose.py --base BASE --finetuned TUNED --dataset FOLDER --output_dir runs/diagnosis
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import step_bar
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.diagnosis.console import print_diagnosis
from ftmech_hf.studies.diagnosis.diagnosis import run_diagnosis
from ftmech_hf.studies.diagnosis.inputs import DiagnoseConfig
from ftmech_hf.tasks import PcfgShape


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, say the verdict and where the page is."""
    with clean_exit():
        config, case_config, shape = parse_config(DiagnoseConfig, CaseConfig, PcfgShape, argv=argv, description=__doc__)
        with step_bar("diagnose", "methods") as progress:
            run = run_diagnosis(config, case_config, shape, progress=progress)
        print_diagnosis(run, FinishedRun(run.path).summary)


if __name__ == "__main__":
    main()
