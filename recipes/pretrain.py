"""Train a model from scratch on a task's stream.

accelerate launch recipes/pretrain.py --config recipes/configs/nano/pretrain.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.report.console import print_run
from ftmech_hf.tasks import parse_task
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.stages import PretrainConfig, pretrain


def main(argv: list[str] | None = None) -> None:
    """Parse, pretrain, say where."""
    with clean_exit():
        print_run(pretrain(*parse_task(PretrainConfig, TrainConfig, argv=argv, description=__doc__)))


if __name__ == "__main__":
    main()
