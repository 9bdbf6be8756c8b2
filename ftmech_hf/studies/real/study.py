"""What the real study is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.real.plan import RealConfig, RealPlan
from ftmech_hf.studies.real.results import print_results, right_numbers, write_results

STUDY = Study(
    name="real",
    question="Does the diagnosis find the truth in a real model that was tuned so that the truth is known?",
    paper="none: SmolLM2-135M-Instruct and facts, from the package registry alone",
    duration="half an hour",
    configs=(RealConfig, CaseConfig),
    plan=RealPlan,
    write_results=write_results,
    print_results=print_results,
    numbers=right_numbers,
)
