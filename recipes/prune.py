"""Prune a few neurons of a fine-tuned model and see whether the pretraining capability comes back.

accelerate launch recipes/prune.py --config recipes/configs/nano/prune.yaml
python recipes/prune.py --model TUNED --dataset QUESTIONS --output_dir runs/prune
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.asking import parse_asked
from ftmech_hf.jobs.figures import draw_pruning
from ftmech_hf.jobs.pruning import PruneConfig, prune
from ftmech_hf.report.charts import panel, save_beside
from ftmech_hf.report.console import print_dataset, print_job, step_bar
from ftmech_hf.runs import FinishedRun


def main(argv: list[str] | None = None) -> None:
    """Parse, prune, say what came out."""
    with clean_exit():
        config, asked = parse_asked(PruneConfig, argv=argv, description=__doc__)
        with step_bar("prune", "masks") as progress:
            run = prune(config, asked, progress=progress)
        made = FinishedRun(run.path)
        print_job(
            run, save_beside(panel(lambda ax: draw_pruning(ax, {0: {"run": made}}, "run", None, config.model)), run)
        )
        print_dataset(run)


if __name__ == "__main__":
    main()
