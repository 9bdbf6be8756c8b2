"""What the study of retrieval is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import Study
from ftmech_hf.report.console import print_claims
from ftmech_hf.studies.retrieval.plan import RetrievalConfig, RetrievalPlan
from ftmech_hf.studies.retrieval.results import write_results

STUDY = Study(
    name="retrieval",
    paper="Barnett et al., arXiv 2406.11201",
    question="Does fine-tuning help a model that answers from retrieved documents, and is reading gone where it harms?",
    duration="50 minutes",
    configs=(RetrievalConfig,),
    plan=RetrievalPlan,
    write_results=write_results,
    print_results=print_claims,
    jobs=(
        Publication(
            kind="library_answers", holds="table",
            question="What does a model answer from documents, from memory, and where neither tells?",
        ),
        Publication(
            kind="library_inside", holds="table",
            question="Can the document's value be read where the answer begins, and is it attended to?",
        ),
    ),
)  # fmt: skip
