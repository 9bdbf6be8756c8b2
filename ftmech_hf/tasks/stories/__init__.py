"""Stories in the format of TinyStories-Instruct: real ones from raw files, and procedural ones of known features."""

from ftmech_hf.tasks.stories.baseline import WordBaseline, word_baseline
from ftmech_hf.tasks.stories.generator import Part, judge, make_story
from ftmech_hf.tasks.stories.records import FEATURES, Damage, Story, read_stories
from ftmech_hf.tasks.stories.task import Document, StoriesConfig

__all__ = [
    "FEATURES",
    "Damage",
    "Document",
    "Part",
    "StoriesConfig",
    "Story",
    "WordBaseline",
    "judge",
    "make_story",
    "read_stories",
    "word_baseline",
]
