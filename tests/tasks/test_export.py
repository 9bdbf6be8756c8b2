from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from ftmech_hf.models.tokenization import build_tokenizer
from ftmech_hf.tasks import PcfgConfig, RowStream, build_dataset, export, features, stream_dataset, write_parquet
from ftmech_hf.tasks.operators_table import OPERATORS
from ftmech_hf.tasks.schema import BLOCK

CONFIG = PcfgConfig(operators=[*OPERATORS])


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SHARD_BLOCKS", 1)


def test_columns_are_the_words_of_the_row() -> None:
    rows = RowStream(CONFIG, seed=3, split="test").rows(0, 1500)
    dataset = build_dataset(CONFIG, "test", 1500, seed=3)
    assert dataset.features == features(CONFIG)
    tokenizer = build_tokenizer(CONFIG.vocabulary)
    for number, row in enumerate(dataset):
        words = [CONFIG.vocabulary[token] for token in rows.token_ids[number]]
        assert f"{row['prompt']}{row['completion']}" == " ".join(words)
        assert row["completion"] == f" {words[-2]} <eos>"
        assert dataset.features["operator"].int2str(row["operator"]) == words[1]
        assert dataset.features["operand"].int2str(row["operand"]) == words[2]
        assert (str(row["parameter"]), row["text"], row["answer"]) == (words[3], " ".join(words[5:-4]), words[-2])
        assert (row["label"], row["correlated"]) == (rows.label[number], rows.correlated[number])
        if number % 100 == 0:
            assert tokenizer(row["prompt"] + row["completion"])["input_ids"] == rows.token_ids[number].tolist()


def test_a_dataset_is_known_by_what_it_holds() -> None:
    def fingerprint(**change: Any) -> str:
        return str(build_dataset(PcfgConfig(**change), "test", 3)._fingerprint)

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(count_window=9), fingerprint(operand_prior=["low"])}) == 3
    assert build_dataset(CONFIG, "test", 3)._fingerprint != build_dataset(CONFIG, "test", 3, seed=1)._fingerprint
    assert build_dataset(CONFIG, "test", 3)._fingerprint != build_dataset(CONFIG, "train", 3)._fingerprint


def test_a_stream_equals_the_dataset(small_shards: None) -> None:
    number = 2 * BLOCK + 100
    assert list(stream_dataset(CONFIG, "train", number)) == list(build_dataset(CONFIG, "train", number))
    assert len(list(stream_dataset(CONFIG, "train", 2**24).take(5))) == 5


@pytest.mark.parametrize("stop_after", [1, BLOCK, BLOCK + 700])
def test_a_stream_goes_on_where_it_stopped(small_shards: None, stop_after: int) -> None:
    number = 3 * BLOCK
    stream = stream_dataset(CONFIG, "train", number)
    iterator = iter(stream)
    for _ in range(stop_after):
        next(iterator)
    state = stream.state_dict()
    again = stream_dataset(CONFIG, "train", number)
    again.load_state_dict(state)
    assert list(again) == list(build_dataset(CONFIG, "train", number))[stop_after:]


@pytest.mark.parametrize("world_size", [2, 3])
def test_nodes_share_a_stream_without_overlap(small_shards: None, world_size: int) -> None:
    number = 4 * BLOCK

    def names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
        return [row["text"] + row["prompt"] for row in rows]

    streams = [split_dataset_by_node(stream_dataset(CONFIG, "train", number), n, world_size) for n in range(world_size)]
    parts = [names(stream) for stream in streams]
    assert sorted(itertools.chain(*parts)) == sorted(names(build_dataset(CONFIG, "train", number)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_workers_share_a_stream_without_overlap(small_shards: None) -> None:
    number = 4 * BLOCK
    loader = DataLoader(stream_dataset(CONFIG, "train", number).with_format("numpy"), batch_size=64, num_workers=2)
    labels = np.concatenate([batch["label"] for batch in loader])
    whole = np.array(build_dataset(CONFIG, "train", number)["label"])
    assert len(labels) == number
    assert (np.bincount(labels + 1) == np.bincount(whole + 1)).all()


def test_parquet_holds_the_same_rows_in_bounded_groups(tmp_path: Path) -> None:
    path, number = tmp_path / "rows.parquet", 3 * BLOCK + 5
    seen = sum(len(rows) for rows in write_parquet(CONFIG, "test", number, path, blocks_per_group=2))
    assert seen == number
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2 * BLOCK, BLOCK + 5]
    loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path))
    assert loaded.features == features(CONFIG)
    assert list(loaded) == list(build_dataset(CONFIG, "test", number))


def test_bad_requests_name_their_fields() -> None:
    with pytest.raises(ValueError, match="num_rows: 0, expected at least 1"):
        build_dataset(CONFIG, "test", 0)
    with pytest.raises(ValueError, match="num_rows: -5"):
        stream_dataset(CONFIG, "test", -5)
    with pytest.raises(ValueError, match="split: unknown 'tset'"):
        stream_dataset(CONFIG, "tset")


ENCODE = """
import datasets
from ftmech_hf.tasks import PcfgConfig, build_dataset
from ftmech_hf.models.tokenization import build_tokenizer, encode_dataset

task = PcfgConfig()
encoded = encode_dataset(build_dataset(task, "train", 50), build_tokenizer(task.vocabulary))
print(encoded._fingerprint, encoded[0]["input_ids"])
"""


def test_encoded_datasets_are_found_again_by_another_process(tmp_path: Path) -> None:
    env = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path)}
    outputs, times = [], []
    for _ in range(2):  # interpreters: each hashes words in its own way
        done = subprocess.run([sys.executable, "-c", ENCODE], env=env, capture_output=True, text=True, check=True)
        outputs.append(done.stdout)
        (file,) = (tmp_path / "ftmech_hf").iterdir()
        times.append(file.stat().st_mtime_ns)
    assert outputs[0] == outputs[1]
    assert times[0] == times[1]  # not written again
