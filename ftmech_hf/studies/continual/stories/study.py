"""What the second sequence is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.study import Study
from ftmech_hf.report.console import print_claims
from ftmech_hf.studies.continual.stories.plan import StorySequenceConfig, StorySequencePlan
from ftmech_hf.studies.continual.stories.results import write_results
from ftmech_hf.tasks.stories import StoriesConfig

STORIES_STUDY = Study(
    name="continual_stories",
    paper="Mukhoti et al., arXiv 2308.13320; Jain et al., arXiv 2311.12786, App. F",
    question="Does deleting one feature of stories bring another back, or take others with it, and which methods help?",
    duration="20 minutes",
    configs=(StorySequenceConfig, StoriesConfig),
    plan=StorySequencePlan,
    write_results=write_results,
    print_results=print_claims,
    data_file="matrix.parquet",
)
