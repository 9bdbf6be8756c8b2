"""The judge of a study of stories: exact for procedural ones, or fitted to real ones and saved as a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftmech_hf.jobs.job import JobConfig, check_positive, finish_job, job
from ftmech_hf.runs import RunDir, file_sha256, hash_files, write_text
from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.tasks.stories import (
    Damage,
    FittedJudge,
    JudgeScore,
    StoriesConfig,
    Story,
    check_judge,
    fit_judge,
    judge,
    load_judge,
    make_story,
    read_sources,
)
from ftmech_hf.tasks.stories.judges import Judge, write_judge
from ftmech_hf.training.loop import Progress

EXACT = "exact"
CHECKED_STORIES = 300


@dataclass(frozen=True, kw_only=True)
class FitJudgeConfig(JobConfig):
    """Which stories a judge is fitted to, and where it goes."""

    files: list[str] = field(
        default_factory=list,
        metadata={
            "place": "input",
            "help": "TinyStories-Instruct files: .txt, .json, .jsonl, .csv, .parquet; procedural stories, as a check, "
            "if none",
        },
    )
    fit_stories: int = field(default=20_000, metadata={"help": "stories to fit on, at most"})
    test_stories: int = field(default=4_000, metadata={"help": "stories to say on what it gets right, at most"})
    max_ngrams: int = field(
        default=20_000, metadata={"help": "words and pairs of words that are counted, the most frequent ones"}
    )
    l2: float = field(default=0.1, metadata={"help": "penalty on the weights"})
    output_dir: str = field(default="runs/judge", metadata={"place": "output", "help": "the judge's folder"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "fit_stories", "test_stories", "max_ngrams")
        if not self.l2 > 0:
            raise ValueError(f"l2: {self.l2}, expected a number above 0")
        if missing := [name for name in self.files if not Path(name).is_file()]:
            raise ValueError(f"files: there is no {missing[0]}")

    def inputs(self) -> dict[str, str]:
        """The files, by their bytes."""
        return hash_files(self.files)


LEAST_STORIES = 10
"""In files: a fifth is held out, and of two stories one may have what the other has not."""


def fit_story_judge(config: FitJudgeConfig, *, progress: Progress | None = None) -> RunDir:
    """Fit a judge and keep it with what it gets right: a folder that :func:`load_judge` loads."""
    with job("judge", config) as run:
        if run.finished:
            return run
        damage = Damage()
        train, test = _split_stories(config, damage)
        found = fit_judge(train, test, max_ngrams=config.max_ngrams, l2=config.l2, seed=config.seed)
        facts = {"fit_stories": len(train), "test_stories": len(test), "damage": str(damage)}
        write_judge(found, run.working, facts)
        if progress is not None:
            progress(1, 1, "; ".join(str(score) for score in found.scores))
        rows = [{**dataclasses.asdict(score), "trusted": score.trusted} for score in found.scores]
        write_text(run.working / "README.md", _card(run, facts, found))
        return finish_job(run, rows, {**facts, "scores": rows})


def _split_stories(config: FitJudgeConfig, damage: Damage) -> tuple[list[Story], list[Story]]:
    if not config.files:
        return (
            [make_story(split_generator(config.seed, "probe", number)) for number in range(config.fit_stories)],
            [make_story(split_generator(config.seed, "test", number)) for number in range(config.test_stories)],
        )
    # A story that was written twice must not be on both sides: it is known by its text
    stories = list({story.story: story for story in read_sources(config.files, damage)}.values())
    if len(stories) < LEAST_STORIES:
        raise ValueError(
            f"files: {len(stories)} different stories in {', '.join(config.files)}, expected at least {LEAST_STORIES}"
        )
    order = split_generator(config.seed, "probe", 0).permutation(len(stories))
    held_out = min(config.test_stories, len(stories) // 5)
    test, train = order[:held_out], order[held_out : held_out + config.fit_stories]
    return [stories[place] for place in train], [stories[place] for place in test]


def _card(run: RunDir, facts: dict[str, Any], found: FittedJudge) -> str:
    lines = [
        "# A judge of stories",
        "",
        f"Fitted to {facts['fit_stories']:,} stories, tested on {facts['test_stories']:,} others ({facts['damage']}). "
        f"Run {run.hash}.",
        "",
        *(f"- {score}" for score in found.scores),
        "",
        "`ftmech_hf.tasks.stories.load_judge(folder)` loads it.",
    ]
    return "\n".join(lines) + "\n"


def judge_version(name: str) -> str:
    """What identifies a judge: the sha256 of its file; empty for the exact one."""
    return "" if name == EXACT else file_sha256(Path(name) / "judge.json")


def check_choice(name: str, task: StoriesConfig) -> None:
    """Make sure that a judge can be asked about a task's stories, before anything is trained.

    Raises:
        ValueError: the exact one for real stories, none in that folder, or one that cannot tell the task's feature.
    """
    if name == EXACT:
        if task.files:
            raise ValueError("judge: exact is for procedural stories; fit one to others with recipes/fit_judge.py")
        return
    score = load_judge(name).score(task.feature)
    if score is None or not score.trusted:
        raise ValueError(f"judge: {name} cannot tell {task.feature}: {score or 'it saw no such stories'}")


def find_judge(name: str, *, seed: int = 0) -> tuple[Judge, list[JudgeScore]]:
    """A judge by name, and what it gets right on stories it was not made of.

    Args:
        name: ``exact`` for procedural stories, or the folder of a fitted one.
        seed: of the stories that the exact judge is checked on.
    """
    if name == EXACT:
        stories = [make_story(split_generator(seed, "validation", number)) for number in range(CHECKED_STORIES)]
        return judge, check_judge(judge, stories)
    found = load_judge(name)
    return found, list(found.scores)
