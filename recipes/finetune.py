"""Fine-tune a saved model on the answers of one capability, with or without a planted correlation.

accelerate launch recipes/finetune.py --config recipes/configs/nano/finetune.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.report.console import print_run
from ftmech_hf.tasks import parse_task
from ftmech_hf.training.adapters import AdapterConfig
from ftmech_hf.training.settings import TrainConfig
from ftmech_hf.training.stages import FinetuneConfig, finetune


def main(argv: list[str] | None = None) -> None:
    """Parse, fine-tune, say where."""
    with clean_exit():
        print_run(finetune(*parse_task(FinetuneConfig, TrainConfig, AdapterConfig, argv=argv, description=__doc__)))


if __name__ == "__main__":
    main()
