from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from ftmech_hf.tasks import PcfgConfig, RowStream
from ftmech_hf.tasks.exact_distribution import row_truth

TINY = PcfgConfig(
    root="g", text_length=5, count_window=4, index_occurrence=1, index_pair_occurrence=1, token_at_position=2,
    operators=["count", "token_at", "count_j1"], operator_prior=[0.6, 0.3, 0.1],
    spread_counts=False,
)  # fmt: skip


def test_the_truth_agrees_with_counting_rows() -> None:
    rows = RowStream(TINY, seed=0, split="train").rows(0, 60_000).token_ids
    truth = row_truth(TINY, rows[:3])
    np.testing.assert_allclose(truth.probabilities.sum(axis=-1), 1.0)
    for row in range(3):
        for place in range(TINY.row_length - 1):
            same = (rows[:, : place + 1] == rows[row, : place + 1]).all(axis=1)
            seen = np.bincount(rows[same, place + 1], minlength=len(TINY.vocabulary)) / same.sum()
            spread = np.sqrt(truth.probabilities[row, place] * (1 - truth.probabilities[row, place]) / same.sum())
            assert (np.abs(seen - truth.probabilities[row, place]) <= 4.5 * spread + 1e-9).all(), (row, place)


def test_no_prediction_has_a_lower_loss() -> None:
    rows = RowStream(TINY, seed=1, split="test").rows(0, 4000).token_ids
    truth = row_truth(TINY, rows)
    other = row_truth(dataclasses.replace(TINY, operand_prior=["0.4", "0.4", "0.2"]), rows)
    assert truth.loss < other.loss
    smoothed = 0.99 * truth.probabilities + 0.01 / len(TINY.vocabulary)
    chosen = np.take_along_axis(smoothed, rows[:, 1:, None], 2)
    assert truth.loss < -np.log(chosen).mean()
    entropy = -np.where(truth.probabilities > 0, truth.probabilities * np.log(truth.probabilities + 1e-300), 0).sum(-1)
    assert truth.loss == pytest.approx(entropy.mean(), rel=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"operators": ["count"], "correlation": 0.5, "min_labels": 1},
        {"label_rule": "random"},
        {"mix_share": 0.1},
        {"spread_counts": True},
    ],
)
def test_no_truth_is_claimed_where_none_is_known(change: dict[str, Any]) -> None:
    config = dataclasses.replace(PcfgConfig(spread_counts=False), **change)
    with pytest.raises(ValueError, match="truth: known for untouched rows only"):
        row_truth(config, RowStream(config, seed=0, split="test").rows(0, 2).token_ids)
