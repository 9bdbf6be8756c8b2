"""Write a task's rows as a dataset that plain ``load_dataset`` reads: parquet, a card, pictures of the labels.

python recipes/make_dataset.py --config recipes/configs/nano/make_dataset.yaml
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit
from ftmech_hf.jobs.make_dataset import MakeDatasetConfig, make_dataset
from ftmech_hf.report.console import make_console, step_bar
from ftmech_hf.tasks import parse_task


def main(argv: list[str] | None = None) -> None:
    """Parse, write, say where."""
    with clean_exit():
        config, task = parse_task(MakeDatasetConfig, argv=argv, description=__doc__)
        with step_bar("rows", "row") as progress:
            run = make_dataset(config, task, progress=progress)
        make_console().print(f"dataset: {run.path} (hash {run.hash}); its card is README.md in it", soft_wrap=True)


if __name__ == "__main__":
    main()
