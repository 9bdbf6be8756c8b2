"""Stories in the format of TinyStories-Instruct: real ones from raw files, and procedural ones of known features."""

from ftmech_hf.tasks.stories.baseline import WordBaseline, word_baseline
from ftmech_hf.tasks.stories.document import Document
from ftmech_hf.tasks.stories.generator import Part, make_story
from ftmech_hf.tasks.stories.judges import (
    FittedJudge,
    JudgeScore,
    check_judge,
    fit_judge,
    has_dialogue,
    load_judge,
    save_judge,
    words_used,
)
from ftmech_hf.tasks.stories.reading import Evidence, find_evidence, judge
from ftmech_hf.tasks.stories.records import FEATURES, Damage, Story, read_stories
from ftmech_hf.tasks.stories.sources import read_sources
from ftmech_hf.tasks.stories.task import StoriesConfig

__all__ = [
    "FEATURES",
    "Damage",
    "Document",
    "Evidence",
    "FittedJudge",
    "JudgeScore",
    "Part",
    "StoriesConfig",
    "Story",
    "WordBaseline",
    "check_judge",
    "find_evidence",
    "fit_judge",
    "has_dialogue",
    "judge",
    "load_judge",
    "make_story",
    "read_sources",
    "read_stories",
    "save_judge",
    "word_baseline",
    "words_used",
]
