"""Fine-tune back on a capability and report the steps to its revival. Run it on a control as well, and compare.

accelerate launch recipes/reverse_finetune.py --config recipes/configs/nano/reverse_finetune.yaml
python recipes/reverse_finetune.py --model MODEL --dataset ROWS --output_dir runs/reverse_finetune
"""

from __future__ import annotations

import dataclasses

from ftmech_hf.config import clean_exit
from ftmech_hf.hub import HubConfig, plan_push, push_run
from ftmech_hf.jobs.training import FinetuneConfig, finetune, parse_training
from ftmech_hf.jobs.training_card import read_revival
from ftmech_hf.report.console import print_published, print_run
from ftmech_hf.runs import FinishedRun
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig


def main(argv: list[str] | None = None) -> None:
    """Parse, reverse, say where and after how many steps."""
    with clean_exit():
        config, task, objective, train, adapter, hub = parse_training(
            FinetuneConfig, TrainConfig, AdapterConfig, HubConfig, argv=argv, description=__doc__
        )
        repo_id = plan_push(hub, config, train, adapter)
        run = finetune(dataclasses.replace(config, split="reverse"), task, train, adapter, objective)
        if run.is_main and (accuracy := (made := FinishedRun(run.path)).accuracy):
            capability = accuracy[0]["name"]  # the base operand's
            revival = read_revival(made, capability)
            reached = (
                f"at step {revival.steps}" if revival.steps is not None else f"not within {revival.last_step} steps"
            )
            print(f"{capability} at {revival.threshold:.0%}: {reached}")
        print_run(run)
        print_published(repo_id, push_run(run, hub, repo_id))


if __name__ == "__main__":
    main()
