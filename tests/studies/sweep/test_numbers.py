"""What a sweep reads off its runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from ftmech_hf.report.readings import Reading, over_seeds
from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.sweep.numbers import _pruning_numbers


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
