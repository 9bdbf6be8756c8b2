"""Compare saved models with the exact distribution of their data: KL, loss, and the lowest loss that is possible.

accelerate launch recipes/truth.py --config recipes/configs/nano/truth.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.exact_distribution import TruthConfig, compare_with_truth
from ftmech_hf.report.console import print_job, step_bar
from ftmech_hf.tasks import PcfgConfig


def main(argv: list[str] | None = None) -> None:
    """Parse, compare, say what came out."""
    with clean_exit():
        config, task = parse_config(TruthConfig, PcfgConfig, argv=argv, description=__doc__)
        with step_bar("truth", "models") as progress:
            run = compare_with_truth(config, task, progress=progress)
        print_job(run)


if __name__ == "__main__":
    main()
