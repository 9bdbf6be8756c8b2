"""Fit a judge of real stories to their instructions, and say what it gets right on others.

python recipes/fit_judge.py --config recipes/configs/nano/fit_judge.yaml --files TinyStories-Instruct-train.txt
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.fit_judge import FitJudgeConfig, fit_story_judge
from ftmech_hf.report.console import make_console, step_bar
from ftmech_hf.runs import FinishedRun
from ftmech_hf.tasks.stories import JudgeScore


def main(argv: list[str] | None = None) -> None:
    """Parse, fit, say what came of it."""
    with clean_exit():
        (config,) = parse_config(FitJudgeConfig, argv=argv, description=__doc__)
        with step_bar("judge", "judge") as progress:
            run = fit_story_judge(config, progress=progress)
        console = make_console()
        for row in FinishedRun(run.path).summary["scores"]:
            score = JudgeScore(**{name: value for name, value in row.items() if name != "trusted"})
            console.print(str(score), soft_wrap=True, highlight=False)
        console.print(f"judge: {run.path} (hash {run.hash})", soft_wrap=True)


if __name__ == "__main__":
    main()
