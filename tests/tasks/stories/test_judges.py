from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ftmech_hf.tasks.schema import split_generator
from ftmech_hf.tasks.stories import (
    FEATURES,
    FittedJudge,
    Story,
    check_judge,
    find_evidence,
    fit_judge,
    has_dialogue,
    judge,
    load_judge,
    make_story,
    save_judge,
    words_used,
)
from ftmech_hf.tasks.stories.reading import answer_places


def _stories(split: str, number: int) -> list[Story]:
    return [make_story(split_generator(0, split, index)) for index in range(number)]


@pytest.fixture(scope="module")
def fitted() -> FittedJudge:
    return fit_judge(_stories("train", 900), _stories("test", 400))


def test_the_exact_judge_is_right_about_every_procedural_story() -> None:
    scores = check_judge(judge, _stories("validation", 200))
    assert [score.feature for score in scores] == list(FEATURES)
    for score in scores:
        assert (score.value, score.sensitivity, score.specificity, score.undecided) == (1, 1, 1, 0)
        assert score.low < 1
        assert score.trusted


def test_a_judge_that_does_not_look_or_does_not_answer_is_at_chance() -> None:
    stories = _stories("validation", 200)
    for score in check_judge(lambda text: dict.fromkeys(FEATURES, True), stories):
        assert score.value == 0.5
        assert not score.trusted
        assert "at chance: not judged" in str(score)
    for score in check_judge(lambda text: dict.fromkeys(FEATURES), stories):
        assert (score.value, score.undecided, score.trusted) == (0.5, 1, False)


def test_the_classifier_knows_what_words_tell_and_refuses_what_they_do_not(fitted: FittedJudge) -> None:
    """Against the oracle: in procedural stories words tell of lessons and quotes, and by construction of no more."""
    assert [score.feature for score in fitted.scores if score.trusted] == ["Dialogue", "MoralValue"]
    moral, twist = fitted.score("MoralValue"), fitted.score("Twist")
    assert moral is not None
    assert twist is not None
    assert moral.value > 0.95
    assert 0.4 < twist.value < 0.6
    assert moral.shuffled is not None
    assert abs(moral.shuffled - 0.5) < 0.1
    texts = [story.story for story in _stories("validation", 100)]
    agree = [fitted(text)["MoralValue"] == judge(text)["MoralValue"] for text in texts]
    assert np.mean(agree) > 0.95
    assert {fitted(text)["Twist"] for text in texts} == {None}


def test_shuffled_labels_make_no_judge() -> None:
    stories = _stories("train", 700)
    mixed = np.random.default_rng(0).permutation(len(stories))
    wrong = [
        Story(story=story.story, features=stories[other].features) for story, other in zip(stories, mixed, strict=True)
    ]
    found = fit_judge(wrong, _stories("test", 300))
    assert not any(score.trusted for score in found.scores if score.how == "classifier")


def test_what_was_saved_judges_the_same(fitted: FittedJudge, tmp_path: Path) -> None:
    folder = save_judge(fitted, tmp_path / "judge", {"note": "a fact"})
    assert sorted(path.name for path in folder.iterdir()) == ["judge.json", "judge.safetensors", "manifest.json"]
    again = load_judge(folder)
    assert again.scores == fitted.scores
    texts = [story.story for story in _stories("validation", 30)]
    for name, values in fitted.logits(texts).items():
        np.testing.assert_array_equal(again.logits(texts)[name], values)
    assert [again(text) for text in texts] == [fitted(text) for text in texts]
    with pytest.raises(ValueError, match="judge exists; choose another folder"):
        save_judge(fitted, folder)
    content = json.loads((folder / "judge.json").read_text())
    content["biases"]["Twist"] = 9.0
    (folder / "judge.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is damaged: judge\.json"):
        load_judge(folder)
    with pytest.raises(ValueError, match=r"holds no judge\.json"):
        load_judge(tmp_path)


def test_stories_that_are_fitted_on_are_not_tested_on() -> None:
    stories = _stories("train", 50)
    with pytest.raises(ValueError, match="held_out: 1 of its stories are among those to fit on"):
        fit_judge(stories, stories[:1])
    with pytest.raises(
        ValueError, match=r"stories: of .* there is no feature that some of both have and some have not"
    ):
        fit_judge([Story(story="One.")], [Story(story="Two.")])


def test_a_story_that_forgets_whose_thought_it_was_has_a_twist_all_the_same() -> None:
    told = "Jane heard a noise by the cart. It had to be a snake, {name} thought. Out came {animal}."
    for name in ("Jane", "Clara"):
        assert judge(told.format(name=name, animal="a hen"))["Twist"] is True
        assert judge(told.format(name=name, animal="a snake"))["Twist"] is False
    assert judge(told.format(name="somebody", animal="a hen"))["Twist"] is None  # no name


def test_answers_are_the_words_that_change_with_the_features() -> None:
    """Two stories of the same draws, with and without a twist, differ there alone."""
    for number in range(20):
        with_twist, without = (
            make_story(split_generator(0, "train", number), features=features, relations=1, always=["Twist"]).story
            for features in (["Twist"], [])
        )
        (one,), (other,) = answer_places(with_twist), answer_places(without)
        assert with_twist[slice(*one)] != without[slice(*other)]
        assert (with_twist[: one[0]], with_twist[one[1] :]) == (without[: other[0]], without[other[1] :])
    assert len(answer_places(_stories("train", 1)[0].story)) == len(FEATURES)
    assert answer_places("A story of something else.") == []


def test_quotes_and_words() -> None:
    assert has_dialogue('"Hi," said Tom.')
    assert has_dialogue("\u201cHi,\u201d said Tom.")
    assert not has_dialogue("Tom's dog didn't bark.")
    assert words_used("Tom saw the Cart wheel, and a cat.", ["cart wheel", "cat", "art"]) == pytest.approx(2 / 3)
    assert words_used("Anything.", []) is None


def test_evidence_is_where_the_judge_looks() -> None:
    for story in _stories("train", 60):
        found = find_evidence(story.story, "Twist")
        assert [each.beat for each in found] == ["belief", "reveal"]
        believed, revealed = (story.story[slice(*each.slot)] for each in found)
        assert (believed != revealed) == ("Twist" in story.features)
        for each in found:
            assert each.sentence[0] <= each.slot[0] < each.slot[1] <= each.sentence[1]
            assert story.story[each.sentence[1] - 1] in ".t"  # "... thought."
    assert find_evidence("A story of something else.", "Conflict") == []
    with pytest.raises(ValueError, match="feature: unknown 'Joke', expected one of Twist"):
        find_evidence("", "Joke")
