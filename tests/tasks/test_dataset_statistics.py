from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from ftmech_hf.tasks import PcfgConfig, Rows, RowStream, build_dataset
from ftmech_hf.tasks.dataset_statistics import Audit

CONFIG = PcfgConfig(operators=["count", "index_pair", "token_at"], root="k", text_length=12, count_window=8,
                    token_at_position=3, index_occurrence=1)  # fmt: skip


def audit_of(split: str, number: int) -> Audit:
    audit = Audit(CONFIG)
    for rows in RowStream(CONFIG, seed=0, split=split).blocks(0, number):
        audit.add(rows)
    return audit


def test_everything_is_counted() -> None:
    number = 2500
    audit, dataset = audit_of("test", number), build_dataset(CONFIG, "test", number)
    operator, operand = (dataset.features[name].int2str for name in ("operator", "operand"))
    keys = [(operator(r["operator"]), operand(r["operand"]), r["correlated"], r["label"]) for r in dataset]
    assert audit.histogram == Counter(keys)
    assert sum(row["rows"] for row in audit.rows()) == audit.num_rows == number
    assert audit.num_without_answer == sum(row["answer"] == "none" for row in dataset) > 0
    assert audit.num_correlated == sum(dataset["correlated"])
    assert audit.repeated() == pytest.approx(1 - len(set(dataset["text"])) / number)


def test_overlap_is_the_share_of_texts_seen_in_training() -> None:
    train, test = audit_of("train", 3000), audit_of("test", 500)
    seen = set(build_dataset(CONFIG, "train", 3000)["text"])
    expected = np.mean([text in seen for text in build_dataset(CONFIG, "test", 500)["text"]])
    assert 0 < expected < 1
    assert test.overlap(train) == pytest.approx(expected)
    assert train.overlap(train) == 1.0


def test_the_checksum_is_that_of_the_rows() -> None:
    rows = RowStream(CONFIG, seed=0, split="test").rows(0, 1500)
    assert audit_of("test", 1500).checksum == hashlib.sha256(rows.token_ids.astype("<i8").tobytes()).hexdigest()
    swapped = Audit(CONFIG)
    swapped.add(Rows.concatenate([rows[1:2], rows[0:1], rows[2:1500]]))
    assert swapped.checksum != audit_of("test", 1500).checksum
