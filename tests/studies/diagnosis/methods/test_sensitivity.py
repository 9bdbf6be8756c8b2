"""Gradients of a large model are taken of as few rows at a time as its memory was announced for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from ftmech_hf.analysis import attribution, input_gradients
from ftmech_hf.studies.diagnosis import case as cases
from ftmech_hf.studies.diagnosis.methods.attribution import measure_attribution
from ftmech_hf.studies.diagnosis.methods.sensitivity import measure_sensitivity
from tests.studies.diagnosis.cases import make_case
from tests.studies.planted import make_wrapped


def test_backward_passes_of_large_models_have_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "BACKWARD_TOKENS", 30)
    seen: dict[str, list[int]] = {"inputs": [], "neurons": []}
    norms, gradients = input_gradients.gradient_norms, attribution._gradients

    def counted_norms(logits: Tensor, inputs: Tensor) -> Tensor:
        seen["inputs"].append(len(logits))
        return norms(logits, inputs)

    def counted(gradients: Callable[..., Any]) -> Callable[..., Any]:
        def call(model: Any, asked: Any, places: Any) -> Any:
            seen["neurons"].append(len(asked.token_ids))
            return gradients(model, asked, places)

        return call

    monkeypatch.setattr(input_gradients, "gradient_norms", counted_norms)
    monkeypatch.setattr(attribution, "_gradients", counted(gradients))
    found = {}
    for reverse_by in ("adapter", "weights"):
        case = make_case(make_wrapped("llama"), patch_rows=80, reverse_by=reverse_by)
        seen["inputs"], seen["neurons"] = [], []
        found[reverse_by] = measure_sensitivity(case).found["capability"].norms, measure_attribution(case).strongest
        most = 30 // case.few("capability").token_ids.shape[1] if reverse_by == "adapter" else 64
        assert 0 < max(seen["inputs"]) == most
        assert 0 < max(seen["neurons"]) == min(most, 32)
    for name, each in found["weights"][0].items():
        assert each == pytest.approx(found["adapter"][0][name], rel=1e-5), "the numbers are the same"
    assert found["weights"][1][:5] == found["adapter"][1][:5]
