"""Map what the answer position attends to and what MLPs hold, in several models; draw it, and say how far it moved.

accelerate launch recipes/attention.py --config recipes/configs/nano/attention.yaml
python recipes/attention.py --models base=BASE tuned=TUNED --dataset QUESTIONS --output_dir runs/attention
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.asking import parse_asked
from ftmech_hf.jobs.attention import AttentionConfig, map_attention
from ftmech_hf.jobs.figures import attention_figure, mlp_figure
from ftmech_hf.report.charts import save_beside
from ftmech_hf.report.console import make_console, print_dataset, print_job, step_bar
from ftmech_hf.runs import FinishedRun


def print_changes(run: FinishedRun) -> None:
    """How far every model's maps are from the first one's, beside the null."""
    for name, kinds in run.summary["change"].items():
        for kind, found in kinds.items():
            make_console().print(
                f"{name}, {kind}: moved by {found['by_row']:.3f} on the same row; means by {found['of_means']:.3f}, "
                f"{found['null']:.3f} where nothing changed; {found['share_above_null']:.0%} moved further than that",
                soft_wrap=True,
            )


def main(argv: list[str] | None = None) -> None:
    """Parse, map, say what came out."""
    with clean_exit():
        config, asked = parse_asked(AttentionConfig, argv=argv, description=__doc__)
        with step_bar("attention", "models") as progress:
            run = map_attention(config, asked, progress=progress)
        made = FinishedRun(run.path)
        if (mlp := mlp_figure(made)) is not None:
            save_beside(mlp, run, "-mlp")
        print_job(run, save_beside(attention_figure(made), run))
        print_dataset(run, reads_first=True)
        print_changes(made)


if __name__ == "__main__":
    main()
