"""Train a model from scratch on a task's stream.

accelerate launch recipes/pretrain.py --config recipes/configs/nano/pretrain.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.hub import HubConfig, plan_push, push_run
from ftmech_hf.jobs.training import PretrainConfig, parse_training, pretrain
from ftmech_hf.report.console import print_published, print_run
from ftmech_hf.training.settings import TrainConfig


def main(argv: list[str] | None = None) -> None:
    """Parse, pretrain, say where, publish on request."""
    with clean_exit():
        config, task, objective, train, hub = parse_training(
            PretrainConfig, TrainConfig, HubConfig, argv=argv, description=__doc__
        )
        repo_id = plan_push(hub, config, train)
        run = pretrain(config, task, train, objective)
        print_run(run)
        print_published(repo_id, push_run(run, hub, repo_id))


if __name__ == "__main__":
    main()
