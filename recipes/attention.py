"""Map what the answer position attends to and what MLPs hold, in several models; draw it, and say how far it moved.

accelerate launch recipes/attention.py --config recipes/configs/nano/attention.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import print_changes, print_study, step_bar
from ftmech_hf.report.figures import attention_figure, mlp_figure, save_beside
from ftmech_hf.studies import AttentionConfig, map_attention
from ftmech_hf.tasks import PcfgShape


def main(argv: list[str] | None = None) -> None:
    """Parse, map, say what came out."""
    with clean_exit():
        config, task = parse_config(AttentionConfig, PcfgShape, argv=argv, description=__doc__)
        with step_bar("attention", "models") as progress:
            run = map_attention(config, task, progress=progress)
        save_beside(mlp_figure(run.path), run, "-mlp")
        print_study(run, save_beside(attention_figure(run.path), run))
        print_changes(run)


if __name__ == "__main__":
    main()
