"""What the study of stories is, declared."""

from __future__ import annotations

from ftmech_hf.jobs.publication import Publication
from ftmech_hf.jobs.study import Study
from ftmech_hf.studies.tinystories.config import StoriesStudyConfig
from ftmech_hf.studies.tinystories.page import print_results, write_results
from ftmech_hf.studies.tinystories.plan import StoriesPlan
from ftmech_hf.studies.tinystories.scores import state_stories
from ftmech_hf.tasks.stories import StoriesConfig

STUDY = Study(
    name="tinystories",
    question="Does a feature of stories that fine-tuning deleted come back faster than it is learned?",
    paper="Jain et al., arXiv 2311.12786, Sect. 5.2 and App. F",
    duration="a quarter of an hour a seed",
    configs=(StoriesStudyConfig, StoriesConfig),
    plan=StoriesPlan,
    write_results=write_results,
    print_results=print_results,
    data_file="points.csv",
    jobs=(
        Publication(
            kind="stories_score",
            holds="table",
            question="How often a story has a feature when it is asked for.",
            state=state_stories,
        ),
        Publication(
            kind="stories_probe", holds="table", question="Which features of a story can be read from the stream?"
        ),
        Publication(
            kind="stories_prune", holds="table", question="Does zeroing a few neurons bring a feature of stories back?"
        ),
    ),
)
