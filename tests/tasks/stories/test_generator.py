from __future__ import annotations

import re

import pytest

from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.tasks.stories import FEATURES, Part, Story, judge, make_story, word_baseline
from ftmech_hf.tasks.stories.generator import MAX_FEATURES, lexicon


def _stories(split: str, number: int, part: Part = "seen", *, animals_apart: bool = False) -> list[Story]:
    return [
        make_story(split_generator(0, split, index), part=part, animals_apart=animals_apart) for index in range(number)
    ]


@pytest.mark.parametrize("part", ["seen", "held_out"])
def test_the_judge_reads_every_feature_off_the_text(part: Part) -> None:
    for story in _stories("train", 400, part):
        assert judge(story.story) == {name: name in story.features for name in FEATURES}, story


@pytest.mark.parametrize("feature", FEATURES)
def test_a_story_has_the_features_that_were_asked_for_and_no_others(feature: str) -> None:
    for index in range(20):
        story = make_story(split_generator(1, "test", index), features=[feature])
        assert story.features == (feature,)
        assert [name for name, has in judge(story.story).items() if has] == [feature]


def test_the_judge_says_what_it_cannot_tell() -> None:
    assert judge("A story of something else.") == dict.fromkeys(FEATURES)
    story = make_story(split_generator(0, "train", 0), features=["Twist"]).story
    ends_early = story.splitlines()[0] + "\n" + story.splitlines()[1]
    assert {name: value for name, value in judge(ends_early).items() if value is not None} == {
        "Dialogue": False,
        "Conflict": False,
    }


def test_the_judge_notices_a_word_that_was_changed() -> None:
    story = make_story(split_generator(0, "train", 3), features=[]).story
    broken = re.search(r"Then the ([\w ]+) broke|the ([\w ]+) came apart|the ([\w ]+) fell down", story)
    assert broken is not None
    thing = next(group for group in broken.groups() if group)
    hinted = next(t for t in lexicon()["things"]["seen"] if t != thing and story.count(t) == 2)
    changed = story.replace(broken.group(0), broken.group(0).replace(thing, hinted))
    assert judge(story)["Foreshadowing"] is False
    assert judge(changed)["Foreshadowing"] is True


def test_the_same_number_gives_the_same_story_and_another_another() -> None:
    assert _stories("train", 5) == _stories("train", 5)
    assert len({story.story for split in ("train", "test") for story in _stories(split, 200)}) == 400


def test_numbers_of_features_are_spread() -> None:
    numbers = [len(story.features) for story in _stories("train", 2000)]
    assert [numbers.count(n) for n in range(MAX_FEATURES + 1)] == pytest.approx([500] * 4, abs=80)


def test_held_out_words_are_in_no_training_story() -> None:
    """But where a held-out word is part of a sentence of its own: every entry, in full, as it would stand there."""
    text = "\n".join(story.story for story in _stories("train", 500))
    entries = [
        entry if isinstance(entry, str) else entry[0]
        for name in ("names", "places", "spots", "creatures", "things", "lessons", "facts", "sayings", "fillers")
        for entry in lexicon()[name]["held_out"]
    ]
    assert [entry for entry in entries if re.search(rf"\b{re.escape(entry)}\b", text)] == []
    assert "otter" in "\n".join(story.story for story in _stories("train", 100, "held_out"))


def _named(story: Story) -> tuple[int, int]:
    """The places in the lexicon of the two animals that a story names, in their order."""
    plurals = [entry[1] for entry in lexicon()["creatures"]["seen"]]
    found = re.findall(rf"\b(?:{'|'.join(plurals)})\b", story.story)
    first, second = (plurals.index(each) for each in dict.fromkeys(found))
    return first, second


def test_animals_that_are_apart_come_from_two_halves_of_the_list_in_their_order() -> None:
    middle = len(lexicon()["creatures"]["seen"]) // 2
    apart = [_named(story) for story in _stories("train", 300, animals_apart=True)]
    assert all(first < middle <= second for first, second in apart)
    assert {each for pair in apart for each in pair} == set(range(len(lexicon()["creatures"]["seen"])))
    anywhere = [_named(story) for story in _stories("train", 300)]
    assert 0.3 < sum(first < middle for first, _ in anywhere) / 300 < 0.7


@pytest.mark.parametrize("part", ["seen", "held_out"])
def test_which_of_two_animals_is_revealed_is_open_where_they_are_apart(part: Part) -> None:
    """Of stories with a twist and of those without, the first animal that is named is revealed in half."""
    middle = len(lexicon()["creatures"][part]) // 2
    places = {entry[0]: place for place, entry in enumerate(lexicon()["creatures"][part])}
    for features in ([], ["Twist"]):
        first = 0
        for index in range(400):
            rng = split_generator(0, "train", index)
            made = make_story(rng, features=features, part=part, relations=1, always=["Twist"], animals_apart=True)
            assert judge(made.story)["Twist"] is bool(features)
            last = max(places, key=lambda animal: made.story.rfind(animal))
            first += places[last] < middle
        assert 0.4 < first / 400 < 0.6


@pytest.mark.parametrize("animals_apart", [False, True])
def test_words_alone_do_not_tell_relations_but_tell_what_stands_in_words(animals_apart: bool) -> None:
    sizes: tuple[tuple[str, int, Part], ...] = (
        ("train", 1200, "seen"),
        ("test", 500, "seen"),
        ("test", 500, "held_out"),
    )
    sets = [_stories(*each, animals_apart=animals_apart) for each in sizes]
    found = {row.feature: row for row in word_baseline(*sets)}
    for name in ("Twist", "Foreshadowing", "BadEnding", "Conflict"):
        assert 0.4 < found[name].accuracy < 0.62, name
    assert found["Dialogue"].accuracy == 1
    assert found["MoralValue"].accuracy > 0.95
    assert found["MoralValue"].held_out is not None
    assert found["MoralValue"].held_out < 0.8  # the lessons are others


def test_an_unknown_feature_is_named() -> None:
    with pytest.raises(ValueError, match="features: unknown 'Joke', expected some of Twist, Foreshadowing"):
        make_story(split_generator(0, "train", 0), features=["Joke"])
