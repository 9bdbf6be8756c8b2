"""Does fine-tuning help a model that answers from retrieved documents? A base and a tuned one, on anybody's questions.

python recipes/retrieval.py --base MODEL --finetuned MODEL --data runs/squad --split dev --retriever bm25
"""

from __future__ import annotations

from ftmech_hf.config import clean_exit, parse_config
from ftmech_hf.jobs.grounded_answers import GroundedConfig, answer_questions, describe_harm
from ftmech_hf.report.console import make_console, step_bar
from ftmech_hf.retrieval import RetrieverConfig
from ftmech_hf.runs import FinishedRun


def main(argv: list[str] | None = None) -> None:
    """Parse, ask, say what came out."""
    with clean_exit():
        config, retriever = parse_config(GroundedConfig, RetrieverConfig, argv=argv, description=__doc__)
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
