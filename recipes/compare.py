"""Say what fine-tuning changed in a model without being told where to look, beside changes that teach nothing.

python recipes/compare.py --config recipes/configs/nano/compare.yaml
python recipes/compare.py --base BASE --finetuned TUNED
python recipes/compare.py --base BASE --finetuned TUNED --texts FOLDER --output_dir runs/comparison
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import step_bar
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.compare.comparison import run_comparison
from ftmech_hf.studies.compare.console import print_comparison
from ftmech_hf.studies.compare.inputs import CompareConfig


def main(argv: list[str] | None = None) -> None:
    """Parse, compare, say the answer and where the page is."""
    with clean_exit():
        (config,) = parse_config(CompareConfig, argv=argv, description=__doc__)
        with step_bar("compare", "models") as progress:
            run = run_comparison(config, progress=progress)
        print_comparison(run, FinishedRun(run.path).summary)


if __name__ == "__main__":
    main()
