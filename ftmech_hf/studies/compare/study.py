"""What the comparison is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import StudyFacts

STUDY = StudyFacts(
    name="compare",
    question="What did fine-tuning do at all? Two models in, no question needed.",
    paper="methods of model diffing",
    duration="a minute",
    jobs=(
        Publication(
            kind="compare",
            holds="table",
            question="What did fine-tuning change? All that differs, beside models that were taught nothing.",
        ),
    ),
)
