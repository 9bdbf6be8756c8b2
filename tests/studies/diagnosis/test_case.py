from __future__ import annotations

import torch

from ftmech_hf.studies.diagnosis.case import never_trained
from tests.conftest import make_gpt2, make_llama, make_neox
from tests.studies.planted import make_never


def test_random_weights_are_no_control_however_they_are_called() -> None:
    for make in (make_gpt2, make_llama, make_neox):
        assert never_trained(make(40))
    assert not never_trained(make_never("llama"))
    assert not never_trained(make_never("gpt2"))
    without = torch.nn.Linear(3, 3, bias=False)
    assert not never_trained(without)  # type: ignore[arg-type]
