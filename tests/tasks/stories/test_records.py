from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ftmech_hf.tasks.stories.records import Damage, Story, parse_text, read_stories

RAW = """Words: quit, oak
Features: Dialogue, Twist
Story: 

"I quit," said Ben.
The oak was a door.
Summary: Ben quits, and an oak is a door.
<|endoftext|>
Random sentence: It rained.
Summary: It rains.
Story: It rained.
Summary
was his name.
<|endoftext|>
Features: Explosion
Story: 

Boom.
<|endoftext|>
Words: a
Words: b
Story: Twice.
<|endoftext|>
Features: Twist
Story: 

<|endoftext|>
Once there was
no header.
Story time.
"""


def test_headers_come_in_any_order_and_a_summary_may_follow(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text(RAW)
    damage = Damage()
    found = list(read_stories(tmp_path / "raw.txt", damage))
    assert found == [
        Story(
            story='"I quit," said Ben.\nThe oak was a door.',
            features=("Dialogue", "Twist"),
            words=("quit", "oak"),
            summary="Ben quits, and an oak is a door.",
        ),
        Story(story="It rained.\nSummary\nwas his name.", summary="It rains.", sentence="It rained."),
        Story(story="Once there was\nno header.\nStory time."),
    ]
    assert damage.reasons == {"with an unknown feature": 1, "with a header twice": 1, "without a story": 1}
    assert str(damage).startswith("3 records read; 3 left out: 1 with")


def test_what_is_written_is_read_again() -> None:
    story = Story(story="A.\nB.", features=("Twist",), words=("x", "y"), summary="S: with, signs.", sentence="A.")
    for seed in range(10):
        raw = story.prompt(np.random.default_rng(seed)) + story.story + "\n<|endoftext|>\n"
        assert parse_text(raw) == story
    assert len({story.prompt(np.random.default_rng(seed)) for seed in range(40)}) > 10


def test_json_shards_are_read_and_damage_counted(tmp_path: Path) -> None:
    records = [
        {
            "story": "One.\n\nTwo.",
            "instruction": {"prompt:": "Write ...", "words": ["one"], "features": ["Conflict"]},
            "summary": "Numbers.",
        },
        {"story": "Bare."},
        {"summary": "nothing else"},
        {"story": "x", "instruction": {"features": ["Twist", 1]}},
        {"story": "x", "instruction": ["Twist"]},
        "text",
    ]
    (tmp_path / "data00.json").write_text(json.dumps(records))
    damage = Damage()
    found = list(read_stories(tmp_path / "data00.json", damage))
    assert found == [
        Story(story="One.\nTwo.", features=("Conflict",), words=("one",), summary="Numbers."),
        Story(story="Bare."),
    ]
    assert damage.reasons == {"without a story": 1, "of another form": 3}


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.json holds dict, expected a list"):
        list(read_stories(tmp_path / "a.json"))
    (tmp_path / "b.json").write_text('[{"story": ')
    with pytest.raises(ValueError, match=r"b\.json is not valid JSON"):
        list(read_stories(tmp_path / "b.json"))


def test_bytes_that_are_no_text_cost_their_record_alone(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_bytes(b"good\n<|endoftext|>\nb\xffad\n<|endoftext|>\nfine\n<|endoftext|>\n")
    damage = Damage()
    assert [story.story for story in read_stories(tmp_path / "raw.txt", damage)] == ["good", "fine"]
    assert damage.reasons == {"that are not UTF-8": 1}
