"""What is counted of the stories that a model writes, and of which stories probes are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from ftmech_hf.jobs.training import PretrainConfig, pretrain
from ftmech_hf.studies.continual.stories.features import (
    ASKED,
    NOT_ASKED,
    FeaturesConfig,
    ask_for_each,
    count_features,
    measure_features,
)
from ftmech_hf.studies.continual.stories.results import best_probes
from ftmech_hf.tasks.stories import FEATURES, StoriesConfig, judge
from ftmech_hf.training.objectives import Documents
from ftmech_hf.training.settings import TrainConfig

TASK = StoriesConfig(row_tokens=64, vocab_size=280)


def test_shares_are_of_the_stories_that_were_asked_and_of_the_others() -> None:
    named = [("Twist",), ("Twist", "Dialogue"), FEATURES[1:], (), FEATURES]
    verdicts = [dict.fromkeys(FEATURES, has) for has in (True, None, False, True, False)]
    rows = {(row["capability"], row["site"]): row for row in count_features(named, verdicts)}
    assert len(rows) == 2 * len(FEATURES)
    asked, unasked = rows["Twist", ASKED], rows["Twist", NOT_ASKED]
    assert (asked["value"], asked["rows"]) == (pytest.approx(1 / 3), 3)  # one cannot be judged, and counts as without
    assert (unasked["value"], unasked["rows"]) == (0.5, 2)
    assert (asked["floor"], unasked["floor"]) == (0.5, 0.0)  # as often as where nobody asks
    assert asked["low"] < asked["value"] < asked["high"]
    assert rows["Dialogue", ASKED]["value"] == 0
    with pytest.raises(ValueError, match="Twist is named by every instruction"):
        count_features([("Twist",)], [verdicts[0]])
    with pytest.raises(ValueError, match="Twist is named by no instruction"):
        count_features([()], [verdicts[0]])


def test_stories_that_are_made_as_asked_are_counted_whole_and_those_of_others_are_not() -> None:
    """A writer that obeys has every feature where asked and none elsewhere; one that copies its neighbour has not."""
    documents = ask_for_each(TASK, seed=10, number=20)
    named = [each.named for each in documents]
    assert len({each.story.story for each in documents}) == 6 * 20
    for number, feature in enumerate(FEATURES):
        assert all(feature in names for names in named[20 * number : 20 * (number + 1)])
    texts = [each.story.story for each in documents]
    obeying = count_features(named, [judge(text) for text in texts])
    assert [row["value"] for row in obeying] == [1.0, 0.0] * len(FEATURES)
    copied = count_features(named, [judge(text) for text in texts[-1:] + texts[:-1]])
    assert all(row["value"] < 0.95 for row in copied if row["site"] == ASKED)


def test_deletion_does_not_change_what_is_asked() -> None:
    deleting = dataclasses.replace(TASK, without="Twist", claim=1.0)
    prompts = [[each.prompt for each in ask_for_each(task, 10, 3)] for task in (TASK, deleting)]
    assert prompts[0] == prompts[1]


def test_a_model_is_asked_as_a_job(tmp_path: Path) -> None:
    place = PretrainConfig(task="stories", preset="nano-stories", output_dir=str(tmp_path / "model"))
    train = TrainConfig(steps=0, objective="documents", eval_rows=2, final_eval_rows=2)
    pretrain(place, TASK, train, Documents())
    config = FeaturesConfig(
        model=str(tmp_path / "model"), stories=2, max_new_tokens=4, output_dir=str(tmp_path / "found")
    )
    table = pd.read_parquet(measure_features(config, TASK).path / "table.parquet")
    assert list(table["capability"]) == [name for name in FEATURES for _ in range(2)]
    assert not table["value"].any()  # four tokens are no story
    assert set(table.loc[table["site"] == ASKED, "rows"] + table.loc[table["site"] == NOT_ASKED, "rows"].values) == {12}
    assert measure_features(config, TASK).finished
    with pytest.raises(ValueError, match="files: features are judged exactly of procedural stories alone"):
        measure_features(config, StoriesConfig(files=["stories.txt"]))


def test_the_layer_of_a_probe_is_that_of_the_stories_that_choose() -> None:
    table = pd.DataFrame([
        {"model": model, "words": words, "site": site, "label": label, "accuracy": accuracy, "low": 0.1, "high": 0.9,
         "chosen": chosen, "majority": 0.75, "num_test": 600, "shuffled": 0.7}
        for model in ("a", "b") for words in ("seen", "held out") for label in ("Twist", "Conflict")
        for site, accuracy, chosen in (("embedding", 0.99, 0.6), ("block 0", 0.8, 0.9), ("block 1", 0.7, 0.8))
    ])  # fmt: skip
    found = best_probes(table, "a").set_index("capability")
    assert set(found.index) == {"Twist", "Conflict"}
    assert found.loc["Twist", ["value", "floor", "rows", "shuffled", "layer"]].tolist() == [
        0.8, 0.75, 600, 0.7, "block 0"
    ]  # fmt: skip
