"""What the study of compiled programs is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.tracr.plan import TracrConfig, TracrPlan
from ftmech_hf.studies.tracr.results import agreement_numbers, print_results, write_results

STUDY = Study(
    name="tracr",
    question="When a program whose every weight is known is fine-tuned, where is the change, and do the instruments "
    "find it?",
    paper="Jain et al., arXiv 2311.12786, Table 3 and App. B to D",
    duration="a quarter of an hour",
    configs=(TracrConfig,),
    plan=TracrPlan,
    write_results=write_results,
    print_results=print_results,
    numbers=agreement_numbers,
    jobs=(
        Publication(kind="dissect", holds="table", question="Which single weights hide a compiled program's answer?"),
        Publication(
            kind="instruments", holds="table", question="Which parts of small compiled programs do instruments find?"
        ),
        Publication(kind="known", holds="table", question="What instruments say where the answer is known."),
    ),
)
