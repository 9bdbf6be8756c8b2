from __future__ import annotations

import itertools
import math

import pytest
import torch

from ftmech_hf.training.optim import build_optimizers, lr_factor, set_lr
from tests.conftest import make_gpt2, make_llama

SETTINGS = {"lr": 1e-3, "muon_lr": 0.02, "weight_decay": 0.01, "betas": (0.9, 0.95)}


def test_the_schedule_warms_up_then_follows_a_cosine() -> None:
    factors = [lr_factor(s, steps=100, warmup_fraction=0.2, final_lr_fraction=0.01) for s in range(101)]
    assert factors[:20] == pytest.approx([(s + 1) / 20 for s in range(20)])
    assert factors[20] == 1
    assert factors[60] == pytest.approx(0.01 + 0.99 * 0.5)
    assert factors[100] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[20:]))


def test_no_warmup_and_no_decay_is_constant() -> None:
    assert {lr_factor(s, steps=7, warmup_fraction=0, final_lr_fraction=1) for s in range(7)} == {1.0}


@pytest.mark.parametrize("make", [make_gpt2, make_llama])
def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(make: object) -> None:
    model = make(40)  # type: ignore[operator]
    names = {id(p): name for name, p in model.named_parameters()}
    optimizers = build_optimizers(model, optimizer="muon", **SETTINGS)  # type: ignore[arg-type]
    held = [[names[id(p)] for group in o.param_groups for p in group["params"]] for o in optimizers]
    assert sorted(held[0] + held[1]) == sorted(names.values())
    assert all((".h." in name or ".layers." in name) and name.endswith("weight") for name in held[0])
    assert all(model.get_parameter(name).ndim == 2 for name in held[0])
    assert any("lm_head" in name for name in held[1])
    (single,) = build_optimizers(model, optimizer="adamw", **SETTINGS)  # type: ignore[arg-type]
    assert sum(len(group["params"]) for group in single.param_groups) == len(names)


def test_an_adamw_step_is_the_textbooks() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    weight = model.weight.item()
    (optimizer,) = build_optimizers(model, optimizer="adamw", **SETTINGS)  # type: ignore[arg-type]
    set_lr([optimizer], 0.5)
    model.weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    expected = weight * (1 - 5e-4 * 0.01) - 5e-4 * 3 / (math.sqrt(9) + 1e-8)
    assert model.weight.item() == pytest.approx(expected, abs=1e-7)


def test_two_sgd_steps_are_the_textbooks() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    expected, velocity = model.weight.item(), 0.0
    (optimizer,) = build_optimizers(model, optimizer="sgd", **SETTINGS)  # type: ignore[arg-type]
    for _ in range(2):
        velocity = 0.9 * velocity + 3 + 0.01 * expected
        expected -= 1e-3 * velocity
        model.weight.grad = torch.tensor([[3.0]])
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected, abs=1e-7)
