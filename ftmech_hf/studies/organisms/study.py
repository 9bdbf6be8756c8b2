"""What the study of organisms is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.report.console import print_claims
from ftmech_hf.studies.diagnosis.case import CaseConfig
from ftmech_hf.studies.organisms.plan import OrganismsPlan
from ftmech_hf.studies.organisms.results import write_results
from ftmech_hf.studies.organisms.settings import OrganismsConfig
from ftmech_hf.tasks import PcfgShape

STUDY = Study(
    name="organisms",
    question="How often is the verdict of a diagnosis right? Pairs of models whose truth is known, and rival methods.",
    paper="the form of Lee et al., arXiv 2605.24614",
    duration="two and a half hours",
    configs=(OrganismsConfig, CaseConfig, PcfgShape),
    plan=OrganismsPlan,
    write_results=write_results,
    print_results=print_claims,
    data_file="pairs.parquet",
)
