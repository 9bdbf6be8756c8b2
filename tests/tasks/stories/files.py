"""Raw files of stories that this project wrote itself, in both formats, with a damaged record in each."""

from __future__ import annotations

import json
from pathlib import Path

from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.tasks.stories import Story, make_story
from ftmech_hf.tasks.stories.records import END

DAMAGED = "Features: Joke\nStory: Ha."


def stories(number: int) -> list[Story]:
    return [make_story(split_generator(7, "train", place)) for place in range(number)]


def write_raw(path: Path, number: int) -> Path:
    texts = [story.prompt(split_generator(8, "train", n)) + story.story for n, story in enumerate(stories(number))]
    texts.insert(number // 2, DAMAGED)
    path.write_text("".join(f"{text}\n{END}\n" for text in texts), encoding="utf-8")
    return path


def write_shard(path: Path, number: int) -> Path:
    records = [
        {"story": s.story, "summary": s.summary, "instruction": {"words": [*s.words], "features": [*s.features]}}
        for s in stories(number)
    ]
    records.insert(number // 2, {"story": "Ha.", "instruction": {"features": ["Joke"]}})
    path.write_text(json.dumps(records), encoding="utf-8")
    return path
