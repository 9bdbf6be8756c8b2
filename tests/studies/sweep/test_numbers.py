"""What a sweep reads off its runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from ftmech_hf.report.readings import Reading, over_seeds
from ftmech_hf.runs import FinishedRun
from ftmech_hf.statistics.intervals import difference_of_shares
from ftmech_hf.studies.sweep.numbers import _finetuning_numbers, _pruning_numbers


def test_an_accuracy_under_random_masks_is_as_sure_as_the_masks() -> None:
    summary = {
        "accuracy_by_set": {}, "rows": 512, "random_rows": 128, "random_accuracy": 0.25, "random_low": 0.1,
        "random_high": 0.5, "best_k": 3,
    }  # fmt: skip
    found = {name: value for _, name, value in _pruning_numbers(cast(FinishedRun, SimpleNamespace(summary=summary)))}
    by_chance = found["pruned/random"]
    assert by_chance == Reading(0.25, rows=128, interval=(0.1, 0.5))
    assert over_seeds([by_chance], "share")[1] == (0.1, 0.5), "and not that of its rows"
    assert found["pruned/neurons"] == 3


def test_a_share_is_of_as_many_rows_as_were_asked_of_its_test_set() -> None:
    """Near a threshold one test set is asked with more rows than the others."""
    metrics = [
        {"step": 0, "eval_rows": 64, "accuracy/count_a": 0.5, "accuracy/count_b": 0.25, "loss/count_a": 1.0},
        {"step": 9, "eval_rows": 64, "accuracy/count_a": 0.75, "eval_rows/count_a": 512, "accuracy/count_b": 0.5,
         "loss/count_a": 0.5},
    ]  # fmt: skip
    run = SimpleNamespace(metrics=metrics, floor=lambda name, rows: rows / 1000)
    found = list(_finetuning_numbers(cast(FinishedRun, run)))
    shares = {(step, name): value for step, name, value in found if isinstance(value, Reading) and step is not None}
    assert {key: each.rows for key, each in shares.items()} == {
        (0, "count_a"): 64, (0, "count_b"): 64, (9, "count_a"): 512, (9, "count_b"): 64,
    }  # fmt: skip
    assert shares[9, "count_a"].floor == 0.512
    changes = {name: value.interval for step, name, value in found if step is None and isinstance(value, Reading)}
    wanted = difference_of_shares((384, 512), (32, 64))
    assert changes["change/count_a"] == pytest.approx((wanted.low, wanted.high))
