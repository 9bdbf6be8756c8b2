from __future__ import annotations

import re
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from transformers import AutoTokenizer

from ftmech_hf.tasks.stories import Story, judge
from recipes import make_stories

RAW = """Features: Twist
Words: sun
Story: 

The sun went down {0} times.
Then "it" came up.
<|endoftext|>
Once there were {0} hens and nobody knew why.
<|endoftext|>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stories") / "made"
    make_stories.main(["--rows", "train=200", "test=80", "--vocab_size", "400", "--output_dir", str(path)])
    return path


def test_plain_load_dataset_gives_the_stories(folder: Path, tmp_path: Path) -> None:
    seen = datasets.load_dataset(str(folder), "seen", cache_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in seen.items()} == {"train": 200, "test": 80}
    held_out = datasets.load_dataset(str(folder), "held_out", cache_dir=str(tmp_path))
    assert {name: len(rows) for name, rows in held_out.items()} == {"test": 80}
    row = seen["train"][7]
    assert row["prompt"].endswith("Story:\n\n")
    assert row["completion"] == row["story"]
    assert [name for name, has in judge(row["completion"]).items() if has] == row["features"]


def test_the_tokenizer_gives_back_any_text(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert len(tokenizer) == 400
    for text in ("Once upon a time…", "\n\n two  spaces ", "наука 🚲"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("Tom said that they should go on.")["input_ids"]) < 20


def test_the_card_is_valid_and_says_what_words_give_away(folder: Path) -> None:
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert [config["config_name"] for config in card.data.configs] == ["seen", "held_out"]
    table = pd.read_parquet(folder / "table.parquet").set_index("feature")
    assert re.search(rf"\| Dialogue \| .* % \| {100 * table.loc['Dialogue', 'accuracy']:.1f} % \|", card.text)
    assert "\n\n\n\n" not in card.text
    assert card.text.count("\n| ") == 4 + 7


def test_its_config_makes_it_again(folder: Path, tmp_path: Path) -> None:
    make_stories.main(["--config", str(folder / "config.yaml"), "--output_dir", str(tmp_path / "again")])
    for name in ("seen/train.parquet", "held_out/test.parquet", "tokenizer/tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_raw_files_are_regrouped_and_damage_is_told(tmp_path: Path) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("".join(RAW.format(number) for number in range(60)) + "Features: Joke\nStory: Ha.\n<|endoftext|>\n")
    make_stories.main(
        ["--files", str(raw), "--test_share", "0.2", "--vocab_size", "0", "--output_dir", str(tmp_path / "made")]
    )
    loaded = datasets.load_dataset(str(tmp_path / "made"), cache_dir=str(tmp_path / "cache"))
    assert len(loaded["train"]) + len(loaded["test"]) == 120
    assert 10 < len(loaded["test"]) < 40
    stories = {row["story"] for rows in loaded.values() for row in rows}
    assert 'The sun went down 5 times.\nThen "it" came up.' in stories
    card = (tmp_path / "made" / "README.md").read_text()
    assert "120 records read; 1 left out: 1 with an unknown feature" in card
    assert "cdla-sharing-1.0" in card


def test_a_story_that_is_there_twice_is_in_one_split(tmp_path: Path) -> None:
    raw = tmp_path / "raw.txt"
    raw.write_text("".join(RAW.format(number) for number in range(60)) * 2)
    tests = []
    for seed in ("0", "1"):
        folder = tmp_path / seed
        argv = ["--files", str(raw), "--test_share", "0.2", "--vocab_size", "0", "--seed", seed]
        make_stories.main([*argv, "--output_dir", str(folder)])
        train, test = (
            set(pd.read_parquet(folder / "default" / f"{each}.parquet")["story"]) for each in ("train", "test")
        )
        assert len(train) + len(test) == 120
        assert not train & test
        assert 10 < len(test) < 40
        tests.append(test)
    assert tests[0] != tests[1]  # another seed draws others


def test_what_words_give_away_is_measured_on_the_split_that_there_is(tmp_path: Path) -> None:
    argv = ["--vocab_size", "0", "--output_dir", str(tmp_path / "made"), "--rows"]
    make_stories.main([*argv, "finetune=80", "train=200"])
    shares = pd.read_parquet(tmp_path / "made" / "table.parquet").set_index("feature")["share"]
    stories = pd.read_parquet(tmp_path / "made" / "seen" / "finetune.parquet")
    assert len(stories) == 80
    assert len(shares) > 3
    for feature, share in shares.items():
        assert share == np.mean([feature in each for each in stories["features"]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "test=5"], "rows: 'test=5', expected train among them"),
        (["--rows", "train=5"], "rows: 'train=5', expected another split beside train, on which it is measured what"),
        (["--vocab_size", "100"], "vocab_size: 100, expected 0, or at least 259"),
        (["--files", "nowhere.txt"], "files: there is no nowhere.txt"),
        (["--test_share", "1"], "test_share: 1.0, expected more than 0 and less than 1"),
    ],
)
def test_bad_settings_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_stories.main(arguments)
    assert message in capsys.readouterr().err


def test_a_story_without_headers_has_a_bare_prompt() -> None:
    assert Story(story="x").prompt() == "Story:\n\n"
