"""Probe the stream of saved models for the answer of the pretraining capability, beside a model of random weights.

accelerate launch recipes/probe.py --config recipes/configs/nano/probe.yaml
python recipes/probe.py --models tuned=TUNED --dataset QUESTIONS --output_dir runs/probe
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.asking import parse_asked
from ftmech_hf.jobs.figures import draw_probing
from ftmech_hf.jobs.probing import ProbeConfig, probe
from ftmech_hf.report.charts import panel, save_beside
from ftmech_hf.report.console import print_dataset, print_job, step_bar
from ftmech_hf.runs import FinishedRun


def main(argv: list[str] | None = None) -> None:
    """Parse, probe, say what came out."""
    with clean_exit():
        config, asked = parse_asked(ProbeConfig, argv=argv, description=__doc__)
        with step_bar("probe", "models") as progress:
            run = probe(config, asked, progress=progress)
        made = FinishedRun(run.path)
        print_job(run, save_beside(panel(lambda ax: draw_probing(ax, {0: {"probe": made}}, "Linear probes")), run))
        print_dataset(run, reads_first=True)


if __name__ == "__main__":
    main()
