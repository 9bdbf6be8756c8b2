"""What is made like a model that is split over devices is split like it, and computes what it would as a whole."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.models import quantized
from ftmech_hf.models.loading import random_twin
from ftmech_hf.models.quantized import unpacked
from tests.conftest import make_llama
from tests.models.test_quantized import quantize
from tests.placed import place
from tests.simulated_gpu import simulated_gpu

IDS = torch.arange(20)[None]


def devices(model: PreTrainedModel) -> dict[str, torch.device]:
    return {name: weight.device for name, weight in model.named_parameters()}


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(IDS).logits  # type: ignore[no-any-return]


def test_a_twin_is_split_as_its_model_is() -> None:
    model = make_llama(32)
    expected = logits(random_twin(model, 0))
    with simulated_gpu():
        split = place(model, "cpu", "gpu")
        twin = random_twin(split, 0)
        assert devices(twin) == devices(split)
        assert {device.type for device in devices(twin).values()} == {"cpu", "gpu"}
        assert torch.equal(logits(twin), expected)
        assert twin.hf_device_map == split.hf_device_map


def test_an_unpacked_model_is_split_as_the_quantized_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # the simulated GPU's tensors are of a class of their own, as those of packages that pack weights
    monkeypatch.setattr(quantized, "packed_kind", lambda each: str(each.dtype) if each.dtype == torch.int8 else None)
    packed = quantize(make_llama(32))
    expected = logits(unpacked(packed))
    with simulated_gpu():
        split = place(packed, "cpu", "gpu")
        found = unpacked(split)
        assert devices(found) == devices(split)
        assert torch.equal(logits(found), expected)
