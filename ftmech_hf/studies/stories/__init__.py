"""Studies of models that write stories: how often a story has what was asked for, and what the model knows of it."""

from ftmech_hf.studies.stories.judging import FitJudgeConfig, fit_story_judge
from ftmech_hf.studies.stories.probes import StoryProbeConfig, probe_stories
from ftmech_hf.studies.stories.pruning import StoryPruneConfig, prune_stories
from ftmech_hf.studies.stories.scores import ScoreConfig, score_stories
from ftmech_hf.studies.stories.writing import WriteConfig, write_stories

__all__ = [
    "FitJudgeConfig",
    "ScoreConfig",
    "StoryProbeConfig",
    "StoryPruneConfig",
    "WriteConfig",
    "fit_story_judge",
    "probe_stories",
    "prune_stories",
    "score_stories",
    "write_stories",
]
