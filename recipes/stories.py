"""Delete a feature of stories from a model that writes them, and bring it back, as in the paper's Table 1.

python recipes/stories.py --config recipes/configs/nano/stories.yaml
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.scheduler import run_cells
from ftmech_hf.report.console import make_console, print_failures, print_run, print_table
from ftmech_hf.studies.tinystories.page import write_results
from ftmech_hf.studies.tinystories.plan import StoriesPlan, StoriesStudyConfig
from ftmech_hf.tasks.stories import StoriesConfig


def dry_run(plan: StoriesPlan, steps: int) -> None:
    """Pretrain for some steps, and say what all training of the plan would take at that speed."""
    trained = [cell for cell in plan.plan.unfinished() if "train" in cell.kwargs]
    if not trained:
        raise ValueError("max_steps: nothing is left to train, so there is nothing to time")
    train = trained[0].kwargs["train"]
    run = trained[0].function(**{**trained[0].kwargs, "train": dataclasses.replace(train, max_steps=steps)})
    print_run(run)
    rows = [cell.kwargs["train"].steps * cell.kwargs["train"].batch_size for cell in trained]
    projected = json.loads((run.path / "env.json").read_text(encoding="utf-8"))["projection"]
    hours = projected["seconds_per_step"] / train.batch_size * sum(rows) / 3600
    print(f"{len(plan.plan.folders)} runs, {len(trained)} of them to train: {sum(rows):,} rows, {hours:.3g} hours")


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        config, task = parse_config(StoriesStudyConfig, StoriesConfig, argv=argv, description=__doc__)
        plan = StoriesPlan(config, task)
        if config.max_steps is not None:
            return dry_run(plan, config.max_steps)
        failures = ""
        if cells := plan.plan.unfinished():
            print(f"{len(plan.plan.folders)} runs, {len(cells)} of them to make", flush=True)
            outcome = run_cells(cells, workers=config.workers, description="stories")
            failures = outcome.describe()
            print_failures(outcome.failed)
        try:
            results = write_results(plan)
        except ValueError as error:
            raise ValueError(failures or str(error)) from error
        print_table("Stories with the feature, in per cent, beside the paper's Table 1", results.shown)
        make_console().print(f"report: {Path(config.output_dir) / 'report.html'}", soft_wrap=True)
        if failures:
            raise ValueError(failures)


if __name__ == "__main__":
    main()
