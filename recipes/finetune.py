"""Fine-tune a saved model on one capability of a task, or any causal language model on text of your own.

accelerate launch recipes/finetune.py --config recipes/configs/nano/finetune.yaml
python recipes/finetune.py --model MODEL --dataset ROWS --output_dir runs/finetune
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.hub import HubConfig, plan_push, push_run
from ftmech_hf.jobs.training import FinetuneConfig, finetune, parse_training
from ftmech_hf.report.console import print_published, print_run
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig


def main(argv: list[str] | None = None) -> None:
    """Parse, fine-tune, say where, publish on request."""
    with clean_exit():
        config, task, objective, train, adapter, hub = parse_training(
            FinetuneConfig, TrainConfig, AdapterConfig, HubConfig, argv=argv, description=__doc__
        )
        repo_id = plan_push(hub, config, train, adapter)
        run = finetune(config, task, train, adapter, objective)
        print_run(run)
        print_published(repo_id, push_run(run, hub, repo_id))


if __name__ == "__main__":
    main()
