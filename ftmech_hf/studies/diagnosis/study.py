"""What the diagnosis is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import StudyFacts
from ftmech_hf.runs import FinishedRun


def _how_often_right(run: FinishedRun) -> str:
    """The rate of such verdicts, and whether this pair is like those of which it is known."""
    from ftmech_hf.studies.diagnosis.score import describe_score, read_score  # imports torch

    if "settings" not in run.summary.get("facts", {}):  # of a version that did not say what the rate depends on
        return ""
    return describe_score(run.summary, read_score())


STUDY = StudyFacts(
    name="diagnose",
    question="Is a capability of a base model still there in what it was fine-tuned into?",
    paper="Jain et al., arXiv 2311.12786 and arXiv 2407.10264",
    duration="half a minute",
    jobs=(
        Publication(
            kind="diagnose",
            holds="table",
            question="What did fine-tuning change? All instruments on one pair of models.",
            judges=("finetuned", "base"),
            trust=_how_often_right,
        ),
    ),
)
