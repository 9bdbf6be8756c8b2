from __future__ import annotations

import torch

from ftmech_hf.models.untrained import never_trained
from tests.conftest import make_gpt2, make_llama, make_neox
from tests.studies.planted import make_never


def test_random_weights_are_no_control_however_they_are_called() -> None:
    for make in (make_gpt2, make_llama, make_neox):
        assert never_trained(make(40))
    assert not never_trained(make_never("llama"))
    assert not never_trained(make_never("gpt2"))
    # in sixteen bits a norm's weights stay 1 through a training whose steps are smaller than they can be told apart
    for make in (make_gpt2, make_llama):
        drawn = make(40).bfloat16()
        assert never_trained(drawn)
        with torch.no_grad():
            for name, parameter in drawn.named_parameters():
                if "mlp" in name and parameter.ndim > 1:
                    parameter += parameter.std() * torch.randn_like(parameter)
        assert not never_trained(drawn)
    without = torch.nn.Linear(3, 3, bias=False)
    assert not never_trained(without)  # type: ignore[arg-type]
