from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from ftmech_hf.tasks.stories.cache import hash_file
from ftmech_hf.tasks.stories.index import KEPT_BACK, index_files
from ftmech_hf.tasks.stories.raw import CHUNK
from ftmech_hf.tasks.stories.records import Damage, read_stories
from tests.tasks.stories.files import write_raw, write_shard


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "ftmech_hf"


def test_any_record_is_read_alone(tmp_path: Path) -> None:
    files = [write_raw(tmp_path / "one.txt", 50), write_shard(tmp_path / "two.json", 30)]
    index = index_files([str(path) for path in files])
    stories = [story for path in files for story in read_stories(path)]
    assert len(index) == len(stories) == 80
    for number in (79, 0, 50, 49, 33):
        assert index.read(number) == stories[number]
    assert index.damage == "80 records read; 2 left out: 2 with an unknown feature"
    assert index.having("Twist").tolist() == ["Twist" in story.features for story in stories]


def test_a_shard_is_read_in_pieces(tmp_path: Path) -> None:
    """Longer than a piece, with signs of several bytes and brackets in texts."""
    records = [{"story": f"{number} “[{{,]}}” 🚲 " + "x" * 5000} for number in range(CHUNK // 2500)]
    for spaces in (None, 1):
        path = tmp_path / f"long-{spaces}.json"
        path.write_text(json.dumps(records, ensure_ascii=spaces is None, indent=spaces), encoding="utf-8")
        assert path.stat().st_size > 2 * CHUNK
        index = index_files([str(path)])
        assert len(index) == len(records)
        for number in (0, 1, len(records) // 2, len(records) - 1):
            assert index.read(number).story == records[number]["story"]


def test_splits_are_apart_and_a_story_that_is_there_twice_is_in_one(tmp_path: Path) -> None:
    index = index_files([str(write_raw(tmp_path / "one.txt", 800)), str(write_raw(tmp_path / "again.txt", 800))])
    kept = {name: index.of_split(name) for name in (*KEPT_BACK, "train")}
    assert (sum(part.astype(int) for part in kept.values()) == 1).all()
    for name, share in KEPT_BACK.items():
        assert kept[name].mean() == pytest.approx(share, abs=0.015)
    assert (index.of_split("finetune") == kept["train"]).all()
    texts = [index.read(number).story for number in range(1600)]
    assert not {texts[n] for n in np.flatnonzero(kept["test"])} & {texts[n] for n in np.flatnonzero(kept["train"])}


def test_stages_share_all_records_or_none(tmp_path: Path) -> None:
    index = index_files([str(write_raw(tmp_path / "one.txt", 800)), str(write_raw(tmp_path / "again.txt", 800))])
    stages = ("train", "finetune", "reverse")
    kept = {name: index.of_split(name, own_records=True) for name in (*KEPT_BACK, *stages)}
    assert (sum(part.astype(int) for part in kept.values()) == 1).all()
    assert all((kept[name] == index.of_split(name)).all() for name in KEPT_BACK)
    assert [kept[name].mean() for name in stages] == pytest.approx([0.74, 0.1, 0.1], abs=0.03)
    texts = [index.read(number).story for number in range(1600)]
    read = {name: {texts[n] for n in np.flatnonzero(part)} for name, part in kept.items()}
    assert len(set.union(*read.values())) == sum(map(len, read.values())) == 800
    # what it is for: without it every story that revives was read before
    assert all((index.of_split(name) == index.of_split("train")).all() for name in stages)


def test_an_index_is_found_again_and_a_changed_file_is_noticed(tmp_path: Path, cache: Path) -> None:
    path = write_raw(tmp_path / "one.txt", 20)
    index_files([str(path)])
    (kept,) = cache.glob("index-*.npz")
    before, written = hash_file(path), kept.stat().st_mtime_ns
    index_files([str(write_raw(tmp_path / "copy.txt", 20))])
    assert [kept.stat().st_mtime_ns] == [written] == [each.stat().st_mtime_ns for each in cache.glob("index-*.npz")]
    write_raw(path, 21)
    assert hash_file(path) != before
    assert len(index_files([str(path)])) == 21
    assert len([*cache.glob("index-*.npz")]) == 2


def test_files_that_cannot_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="files: there is no nowhere"):
        index_files(["nowhere.txt"])
    (tmp_path / "empty.txt").write_text("Features: Joke\nStory: Ha.\n<|endoftext|>\n")
    with pytest.raises(ValueError, match=r"empty\.txt holds no usable record \(0 records read; 1 left out"):
        index_files([str(tmp_path / "empty.txt")])


def test_real_files_are_read_whole_if_they_are_here() -> None:
    path = Path(__file__).parents[4] / "shared" / "data" / "tinystories" / "TinyStories-sample.txt"
    if not path.is_file():
        pytest.skip("no TinyStories here")
    damage = Damage()
    index = index_files([str(path)])
    stories = list(read_stories(path, damage))
    assert len(index) == len(stories) == damage.read > 6000
    assert index.read(1234) == stories[1234]
