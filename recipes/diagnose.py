"""Say whether a capability is unchanged, behind a wrapper, weakened or gone in a fine-tuned model, and why.

python recipes/diagnose.py --config recipes/configs/nano/diagnose.yaml
python recipes/diagnose.py --base BASE --finetuned TUNED --dataset FOLDER --output_dir runs/diagnosis
"""

from __future__ import annotations

import json

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import print_diagnosis, step_bar
from ftmech_hf.report.diagnosis import render_diagnosis
from ftmech_hf.studies import DiagnoseConfig, ExaminationConfig, diagnose
from ftmech_hf.tasks import PcfgShape


def main(argv: list[str] | None = None) -> None:
    """Parse, examine, say the verdict and where the page is."""
    with clean_exit():
        config, examination, shape = parse_config(
            DiagnoseConfig, ExaminationConfig, PcfgShape, argv=argv, description=__doc__
        )
        with step_bar("diagnose", "instruments") as progress:
            run = diagnose(config, examination, shape, write_page=render_diagnosis, progress=progress)
        print_diagnosis(run, json.loads((run.path / "summary.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
