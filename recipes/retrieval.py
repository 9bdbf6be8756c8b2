"""Does fine-tuning help a model that answers from retrieved documents? A study, or two models on anybody's questions.

python recipes/retrieval.py --config recipes/configs/nano/retrieval.yaml
python recipes/retrieval.py --base MODEL --finetuned MODEL --data runs/squad --split dev --output_dir runs/answers
python recipes/retrieval.py --base MODEL --finetuned runs/tuned --tune closed --data runs/squad --split dev
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config, peek_setting
from ftmech_hf.jobs.grounded_answers import GroundedConfig, answer_questions
from ftmech_hf.jobs.grounded_comparison import describe_harm
from ftmech_hf.jobs.grounded_tuning import TuneConfig, tune_on_questions
from ftmech_hf.jobs.study import run_command
from ftmech_hf.report.console import make_console, step_bar
from ftmech_hf.retrieval import RetrieverConfig
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies import load_study

OF_A_PAIR = ("base", "finetuned", "data")
"""Settings that say that two models are asked, and not the study made."""


def main(argv: list[str] | None = None) -> None:
    """Parse; ask two models and say what came out, or run what is not finished of the study and report."""
    with clean_exit():
        if not any(peek_setting(each, default="", argv=argv) for each in OF_A_PAIR):
            run_command(load_study("retrieval"), argv, __doc__)
            return
        config, retriever, tune = parse_config(
            GroundedConfig, RetrieverConfig, TuneConfig, argv=argv, description=__doc__
        )
        if tune.tune is not None:
            with step_bar("tuning", "steps") as progress:
                tune_on_questions(config, tune, retriever, progress=progress)
        with step_bar("retrieval", "contexts") as progress:
            run = FinishedRun(answer_questions(config, retriever, progress=progress).path)
        console = make_console()
        for context, found in run.summary.items():
            change = found["difference"]["right"]
            console.print(
                f"{context}: right {found['base']['right']:.1%} base, {found['finetuned']['right']:.1%} fine-tuned "
                f"({100 * change['value']:+.1f} points, {100 * change['low']:+.1f} to {100 * change['high']:+.1f}) "
                f"of {found['questions']} questions",
                soft_wrap=True,
            )
        console.print(describe_harm(run.summary), soft_wrap=True)
        console.print(f"answers: {run.path}", soft_wrap=True)


if __name__ == "__main__":
    main()
