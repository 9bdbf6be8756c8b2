"""What the study of stories is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tinystories.page import print_results, write_results
from ftmech_hf.studies.tinystories.plan import StoriesPlan
from ftmech_hf.tasks.stories import StoriesConfig

STUDY = Study(
    name="stories",
    paper="Jain et al., arXiv 2311.12786, Sect. 5.2, App. F and Table 1",
    question="Is a feature of stories that fine-tuning deleted gone from a model that writes, or asleep?",
    duration="half an hour a seed",
    configs=(StoriesStudyConfig, StoriesConfig),
    plan=StoriesPlan,
    write_results=write_results,
    print_results=print_results,
)
