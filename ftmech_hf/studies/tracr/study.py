"""What the study of compiled programs is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.tracr.plan import TracrConfig, TracrPlan
from ftmech_hf.studies.tracr.results import print_results, write_results

STUDY = Study(
    name="tracr",
    paper="Jain et al., arXiv 2311.12786, App. B to D and Table 3",
    question="What does fine-tuning do to a program whose mechanism is known, and do the instruments find that?",
    duration="25 minutes",
    configs=(TracrConfig,),
    plan=TracrPlan,
    write_results=write_results,
    print_results=print_results,
)
