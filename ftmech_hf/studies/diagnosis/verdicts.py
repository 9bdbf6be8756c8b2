"""What diagnoses said of the models of a study, as its page and its files tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftmech_hf.runs import FinishedRun


def verdicts_table(runs: Mapping[int, Mapping[str, FinishedRun]]) -> list[dict[str, Any]]:
    """What the diagnosis said of every model: ``model``, ``verdicts`` (one a seed) and ``reason`` of the first.

    Args:
        runs: seed -> name of a model -> its diagnosis.
    """
    models = dict.fromkeys(model for each in runs.values() for model in each)
    found = []
    for model in models:
        made = {seed: each[model].summary for seed, each in runs.items() if model in each}
        verdicts = {seed: summary["verdict"] for seed, summary in made.items()}
        found.append({"model": model, "verdicts": verdicts, "reason": next(iter(made.values()))["reason"]})
    return found
