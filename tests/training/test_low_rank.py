"""An adapter that is put on a model in its place, and the change that it leaves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.models.interpolation import interpolate_weights
from ftmech_hf.models.merging import quiet_peft
from ftmech_hf.models.stored import stored_tensors
from ftmech_hf.training.low_rank import LowRankChange, adapter_in_place, change_of
from ftmech_hf.training.memory import recompute_blocks
from tests import architectures
from tests.conftest import make_gpt2, make_llama
from tests.models.test_merging import make_tied
from tests.placed import place
from tests.simulated_gpu import simulated_gpu

ROWS = torch.arange(24).view(2, 12) % 40


def train(model: PreTrainedModel, steps: int = 3) -> tuple[LowRankChange, Tensor]:
    """A few steps of an adapter, its change, and the logits of the model that has it."""
    with adapter_in_place(model, seed=0):
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
        for _ in range(steps):
            model.train()(ROWS, labels=ROWS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return change_of(model), model.eval()(ROWS).logits.detach()


@pytest.mark.parametrize("make", [make_gpt2, make_llama, make_tied])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_comes_back_as_it_was_and_with_its_change_it_is_what_was_trained(
    make: type[PreTrainedModel], dtype: torch.dtype
) -> None:
    model = make(40).to(dtype).eval()
    before, alone = copy.deepcopy(model.state_dict()), model(ROWS).logits.detach()
    recomputes = dtype == torch.float32  # what was asked for of the model is so afterwards
    if recomputes:
        recompute_blocks(model, True)
    names = [name for name, _ in model.named_modules()]
    change, trained = train(model)
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not model.training
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules()) == recomputes
    recompute_blocks(model, False)
    assert torch.equal(model(ROWS).logits, alone)
    assert {left.dtype for left, _ in change.factors.values()} == {torch.float32}
    found = change.added_to(model)
    moved, left = (float((each - trained).abs().mean()) for each in (alone, found(ROWS).logits.detach()))
    assert left < (1e-4 if dtype == torch.float32 else 0.2) * moved  # merged weights are rounded
    assert {each.dtype for each in found.parameters()} == {dtype}
    changed = {name for name, value in found.named_parameters() if not torch.equal(value, before[name])}
    assert changed == change.factors.keys()
    assert not any("embed" in name or "wte" in name or "lm_head" in name or "norm" in name for name in changed)


def test_what_is_trained_of_experts_is_kept_too() -> None:
    """Where an MLP that every token passes has matrices of their names, peft adapts the experts' parameters."""
    model = architectures.make("deepseek_v3")
    before, alone = copy.deepcopy(model.state_dict()), model(ROWS).logits.detach()
    change, trained = train(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    found = change.added_to(model)
    moved, left = (float((each - trained).abs().max()) for each in (alone, found(ROWS).logits.detach()))
    assert moved > 0.1
    assert left < 1e-3 * moved
    changed = {name for name, value in found.named_parameters() if not torch.equal(value, before[name])}
    assert changed == change.factors.keys()
    assert {name.rpartition(".")[2] for name in changed if "mlp.experts" in name} == {"gate_up_proj", "down_proj"}
    for name, parameter in model.named_parameters():
        if name in change.factors:  # thin ones, of experts as well
            left_factor, right_factor = change.factors[name]
            assert left_factor.shape == (*parameter.shape[:-1], left_factor.shape[-1])
            assert right_factor.shape == (*parameter.shape[:-2], left_factor.shape[-1], parameter.shape[-1])


def test_experts_that_are_kept_as_inputs_and_outputs_change_as_peft_changes_them() -> None:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.layer import ParamWrapper

    model = architectures.make("gpt_oss")
    names = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    with quiet_peft():
        get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=[], target_parameters=names))
    wrappers = [module for module in model.modules() if isinstance(module, ParamWrapper)]
    assert len(wrappers) == 2 * architectures.LAYERS
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    change = change_of(model)
    for layer in range(architectures.LAYERS):
        outer = model.model.layers[layer].mlp.experts
        for wrapper in (outer, outer.base_layer):
            left, right = change.factors[f"model.layers.{layer}.mlp.experts.{wrapper.parameter_name}"]
            torch.testing.assert_close(left @ right, wrapper.get_delta_weight("default"), rtol=1e-4, atol=1e-4)


def test_a_change_of_what_is_no_parameter_is_refused() -> None:
    model = make_llama(40)
    factors = {"model.norm.weights": (torch.zeros(16, 1), torch.zeros(1, 16))}
    with pytest.raises(ValueError, match=r"^change: model\.norm\.weights, expected names of the model's parameters$"):
        LowRankChange(factors).added_to(model)


def test_shares_of_a_change_lie_on_the_straight_line_to_it() -> None:
    model = make_llama(40)
    change, _ = train(model)
    into = copy.deepcopy(model)
    for share in (0.25, 1.0, 0.0):
        found = change.added_to(model, share, into)
        assert found is into
        wanted = interpolate_weights(model, change.added_to(model), share)
        assert all(
            torch.allclose(one, other, atol=1e-6)
            for one, other in zip(found.parameters(), wanted.parameters(), strict=True)
        )
    assert all(torch.equal(one, other) for one, other in zip(into.parameters(), model.parameters(), strict=True))


def test_a_change_is_added_where_the_copy_is() -> None:
    """A copy of a split model may be whole on one device."""
    model = make_llama(40)
    change, _ = train(model)
    with simulated_gpu():
        found = change.added_to(place(model, "cpu", "gpu"), 0.5, into=copy.deepcopy(model))
    expected = change.added_to(model, 0.5)
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), expected.parameters(), strict=True))


def test_small_steps_are_not_lost_in_bfloat16_where_those_on_weights_are() -> None:
    """At a rate of 1e-5 the steps of a weight of 0.02 to 0.2 are below half of what bfloat16 can tell apart."""
    model = make_llama(40).bfloat16()
    with adapter_in_place(model, seed=0):
        trained = [each for each in model.parameters() if each.requires_grad]
        before = [each.detach().clone() for each in trained]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0)
        model(ROWS, labels=ROWS).loss.backward()
        optimizer.step()
        moved = [not torch.equal(one, other) for one, other in zip(trained, before, strict=True)]
    assert sum(moved) >= len(moved) / 2  # at first the gradient of one half is zero, as the other half is
    whole = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-5, weight_decay=0)
    whole(ROWS, labels=ROWS).loss.backward()
    optimizer.step()
    matrices = [(one, other) for one, other in zip(whole.parameters(), model.parameters(), strict=True) if one.ndim > 1]
    same = sum(int((one == other).sum()) for one, other in matrices)
    assert same > 0.9 * sum(one.numel() for one, _ in matrices)


def test_a_model_comes_back_after_an_error_too() -> None:
    model = make_llama(40)
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(RuntimeError, match="stopped"), adapter_in_place(model, seed=0):
        raise RuntimeError("stopped")
    assert [name for name, _ in model.named_modules()] == names
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


@torch.no_grad()
def test_a_copy_that_is_written_over_keeps_nothing_of_another_model() -> None:
    """Neither a buffer by which a router chooses, which is no parameter."""
    model, other = architectures.make("deepseek_v3"), architectures.make("deepseek_v3")
    name = next(each for each in stored_tensors(model) if each.endswith("e_score_correction_bias"))
    stored_tensors(other)[name].normal_()
    change = LowRankChange({})
    found = change.added_to(model, 0.5, into=copy.deepcopy(other))
    assert torch.equal(stored_tensors(found)[name], stored_tensors(model)[name])
    assert torch.equal(found(ROWS).logits, model(ROWS).logits)
