"""Delete a feature of stories from a model that writes them, and bring it back, as in the paper's Table 1.

python recipes/stories.py --config recipes/configs/nano/stories.yaml
"""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.report.console import make_console, print_table
from ftmech_hf.report.stories_study import write_results
from ftmech_hf.stories import StoriesPlan, StoriesStudyConfig
from ftmech_hf.tasks.stories import StoriesConfig
from ftmech_hf.training.sweep import run_cells


def main(argv: list[str] | None = None) -> None:
    """Parse, run what is not finished, report."""
    with clean_exit():
        config, task = parse_config(StoriesStudyConfig, StoriesConfig, argv=argv, description=__doc__)
        plan = StoriesPlan(config, task)
        failures = ""
        if cells := plan.plan.unfinished():
            print(f"{len(plan.plan.folders)} runs, {len(cells)} of them to make", flush=True)
            outcome = run_cells(cells, workers=config.workers, description="stories")
            failures = outcome.describe()
            if not outcome.results:
                outcome.check()
        results = write_results(plan)
        print_table("Stories with the feature, in per cent, beside the paper's Table 1", results.shown)
        make_console().print(f"report: {Path(config.output_dir) / 'report.html'}", soft_wrap=True)
        if failures:
            raise ValueError(failures)


if __name__ == "__main__":
    main()
