"""What the study of organisms is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.compare_organisms.plan import OrganismsConfig, OrganismsPlan
from ftmech_hf.studies.compare_organisms.results import print_results, score_numbers, write_results

STUDY = Study(
    name="compare_organisms",
    question="How often does a comparison find what was planted, and how often something where nothing was taught?",
    paper="none: planted changes and changes that teach nothing",
    duration="an hour",
    configs=(OrganismsConfig,),
    plan=OrganismsPlan,
    write_results=write_results,
    print_results=print_results,
    numbers=score_numbers,
)
