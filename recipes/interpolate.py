"""Evaluate the models on the straight line between two models, such as a base and what it was fine-tuned into.

accelerate launch recipes/interpolate.py --config recipes/configs/nano/interpolate.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.figures import draw_interpolation
from ftmech_hf.jobs.interpolation import InterpolateConfig, interpolate
from ftmech_hf.report.charts import panel, save_beside
from ftmech_hf.report.console import print_job, step_bar
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks import PcfgConfig


def main(argv: list[str] | None = None) -> None:
    """Parse, interpolate, say what came out."""
    with clean_exit():
        config, task = parse_config(InterpolateConfig, PcfgConfig, argv=argv, description=__doc__)
        with step_bar("interpolate", "models") as progress:
            run = interpolate(config, task, progress=progress)
        made = FinishedRun(run.path)
        print_job(run, save_beside(panel(lambda ax: draw_interpolation(ax, made, "Between two models")), run))


if __name__ == "__main__":
    main()
