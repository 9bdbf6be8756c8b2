"""Pairs of planted models as cases, and what a method found in one dict."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED, NULL, Case, CaseConfig
from ftmech_hf.studies.diagnosis.diagnosis import MeasuredResult
from ftmech_hf.studies.diagnosis.method import MethodResult, TableRow
from ftmech_hf.studies.diagnosis.methods import METHODS
from tests.studies.planted import ask, make_base, make_never, make_rows

FEW = CaseConfig(
    rows=200, fit_rows=500, patch_rows=100, null_steps=0, prune_sizes=[0, 1, 2, 4], random_masks=3, reverse_lr=1e-3,
    reverse_steps=8, most_reverse_steps=64, repeats=2,
)  # fmt: skip


def make_case(finetuned: PreTrainedModel, questions: Behavior | None = None, **changes: Any) -> Case:
    """A base that names the first word, and a control that never did."""
    models = {BASE: make_base("llama"), FINETUNED: finetuned, NULL: make_never("llama")}
    return Case(models, questions or ask(make_rows()), None, dataclasses.replace(FEW, **changes), 0)


def found_by(result: MethodResult) -> tuple[list[TableRow], dict[str, Any]]:
    """Rows of the table; evidence and summary."""
    evidence = result.evidence()
    return result.rows(), {**({} if evidence is None else vars(evidence)), **result.summary()}


@torch.no_grad()
def right(model: PreTrainedModel, rows: torch.Tensor) -> NDArray[np.bool_]:
    """Whether a model answers rows right."""
    found: NDArray[np.bool_] = (model(rows[:, :-2]).logits[:, -1].argmax(-1) == rows[:, -2]).numpy()
    return found


def measured(examined: Case, *names: str) -> MeasuredResult:
    """What some methods find alone."""
    found: dict[str, MethodResult] = {}
    for name in names:
        found[name] = METHODS[name].measure(examined, *(found[each] for each in METHODS[name].needs))
    return MeasuredResult(found, {})
