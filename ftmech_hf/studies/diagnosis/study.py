"""What the diagnosis is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import StudyFacts

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
        ),
    ),
)
