"""What a forward pass takes is what its signature says, and is read once."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from ftmech_hf.jobs.padding import padded_inputs
from ftmech_hf.models.forward import forward_parameters, signature_of
from tests.conftest import make_llama


def test_what_a_forward_pass_takes_is_what_its_signature_says() -> None:
    model = make_llama(20)
    assert [each for each in forward_parameters(model) if each != "self"] == [
        *inspect.signature(model.forward).parameters
    ]

    def own(input_ids: Any) -> None: ...

    model.forward = own  # type: ignore[method-assign]
    assert [*forward_parameters(model)] == ["input_ids"]
    assert "position_ids" in forward_parameters(make_llama(20)), "another one of its class is as it was"


def test_a_class_is_read_once_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, shown = make_llama(20), make_llama(20, seed=1), torch.ones(2, 3)
    padded_inputs(one, shown)
    read: list[Any] = []
    monkeypatch.setattr(inspect, "signature", read.append)
    for model in (one, one, other):
        assert set(forward_parameters(model)) >= {"input_ids", "position_ids"}
    padded_inputs(one, shown)
    assert read == []
    signature_of(lambda: None)
    assert len(read) == 1
