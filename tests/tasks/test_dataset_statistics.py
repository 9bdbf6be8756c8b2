from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from ftmech_hf.tasks import PcfgConfig, Rows, RowStream, build_dataset
from ftmech_hf.tasks.dataset_statistics import DatasetStatistics

CONFIG = PcfgConfig(operators=["count", "index_pair", "token_at"], root="k", text_length=12, count_window=8,
                    token_at_position=3, index_occurrence=1)  # fmt: skip


def statistics_of(split: str, number: int) -> DatasetStatistics:
    statistics = DatasetStatistics(CONFIG)
    for rows in RowStream(CONFIG, seed=0, split=split).blocks(0, number):
        statistics.add(rows)
    return statistics


def test_everything_is_counted() -> None:
    number = 2500
    statistics, dataset = statistics_of("test", number), build_dataset(CONFIG, "test", number)
    operator, operand = (dataset.features[name].int2str for name in ("operator", "operand"))
    keys = [(operator(r["operator"]), operand(r["operand"]), r["correlated"], r["label"]) for r in dataset]
    assert statistics.histogram == Counter(keys)
    assert sum(row["rows"] for row in statistics.rows()) == statistics.num_rows == number
    assert statistics.num_without_answer == sum(row["answer"] == "none" for row in dataset) > 0
    assert statistics.num_correlated == sum(dataset["correlated"])
    assert statistics.repeated() == pytest.approx(1 - len(set(dataset["text"])) / number)


def test_overlap_is_the_share_of_texts_seen_in_training() -> None:
    train, test = statistics_of("train", 3000), statistics_of("test", 500)
    seen = set(build_dataset(CONFIG, "train", 3000)["text"])
    expected = np.mean([text in seen for text in build_dataset(CONFIG, "test", 500)["text"]])
    assert 0 < expected < 1
    assert test.overlap(train) == pytest.approx(expected)
    assert train.overlap(train) == 1.0


def test_the_checksum_is_that_of_the_rows() -> None:
    rows = RowStream(CONFIG, seed=0, split="test").rows(0, 1500)
    assert statistics_of("test", 1500).checksum == hashlib.sha256(rows.token_ids.astype("<i8").tobytes()).hexdigest()
    swapped = DatasetStatistics(CONFIG)
    swapped.add(Rows.concatenate([rows[1:2], rows[0:1], rows[2:1500]]))
    assert swapped.checksum != statistics_of("test", 1500).checksum
