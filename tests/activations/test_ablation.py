from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from ftmech_hf.activations import Unit, ablated_losses, find_layout, find_units
from ftmech_hf.activations.ablation import _Ablation
from ftmech_hf.analysis.pruning import prune_weights
from ftmech_hf.jobs.padding import padding_masked
from tests.conftest import make_gpt2, make_llama
from tests.placed import place
from tests.simulated_gpu import simulated_gpu


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(3, 40, (5, 9), generator=torch.Generator().manual_seed(1))


def loss_of(model: PreTrainedModel, rows: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(rows[:, :-1]).logits[:, -1], rows[:, -1]))


def test_units_are_all_there_and_no_others(any_model: PreTrainedModel) -> None:
    matrices = find_units(any_model, "row")
    expected = {
        name.removesuffix(".weight")
        for name, p in any_model.named_parameters()
        if p.ndim == 2 and (".h." in name or ".layers." in name)
    }
    assert set(matrices) == set(find_units(any_model, "weight")) == expected
    for name, group in matrices.items():
        module = any_model.get_submodule(name)
        width = group.weight.shape[1 - group.axis]
        assert module(torch.randn(1, 1, width)).shape[-1] == group.num_units
    config = any_model.config
    heads, neurons = find_units(any_model, "head"), find_units(any_model, "activation")
    assert [group.num_units for group in heads.values()] == [config.num_attention_heads] * 2
    assert [group.size for group in heads.values()] == [16 // config.num_attention_heads] * 2
    assert [group.num_units for group in neurons.values()] == [64 if config.model_type == "gpt2" else 24] * 2
    weights = find_units(any_model, "weight")
    assert sum(group.num_units for group in weights.values()) == sum(g.weight.numel() for g in matrices.values())
    name, group = next(iter(weights.items()))
    assert group.name(name, group.weight.shape[1] + 2) == f"{name}[1, 2]"
    with pytest.raises(ValueError, match="unit: 'layer', expected one of weight, row, activation, head"):
        find_units(any_model, "layer")  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["activation", "head", "row"])
def test_every_loss_is_that_of_one_forward_pass_per_unit(any_model: PreTrainedModel, rows: Tensor, unit: Unit) -> None:
    whole, losses = ablated_losses(any_model, rows[:, :-1], rows[:, -1], unit, max_rows=20)
    assert whole == pytest.approx(loss_of(any_model, rows), abs=1e-6)
    units = find_units(any_model, unit)
    assert losses.keys() == units.keys()
    moved = 0.0
    for name, group in units.items():
        original = group.weight.detach().clone()
        for number in range(0, group.num_units, 5 if unit == "row" else 1):
            mask = {name: torch.arange(group.num_units) != number}
            prune_weights(units, mask)
            expected = loss_of(any_model, rows)
            group.weight.detach().copy_(original)
            assert float(losses[name][number]) == pytest.approx(expected, abs=2e-4), (name, number)
            moved = max(moved, abs(expected - whole))
    assert moved > 0.05
    assert loss_of(any_model, rows) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("number", [1, 4])
def test_rows_may_be_padded_but_for_the_first(attention: str, number: int) -> None:
    """A model is given no mask for rows of which none is padded, as the first of these alone is."""
    model, pad = make_llama(40), 39
    model.set_attn_implementation(attention)
    rows = torch.randint(3, 39, (number, 9), generator=torch.Generator().manual_seed(1))
    for row in range(1, number):
        rows[row, :row] = pad
    with padding_masked(model, pad):
        whole, losses = ablated_losses(model, rows[:, :-1], rows[:, -1], "activation")

    def expected() -> float:
        return sum(loss_of(model, row[row != pad][None]) for row in rows) / number

    assert whole == pytest.approx(expected(), abs=1e-5)
    for name, group in find_units(model, "activation").items():
        kept = group.weight.detach().clone()
        group.weight.detach()[:, 3] = 0
        assert float(losses[name][3]) == pytest.approx(expected(), abs=2e-4)
        group.weight.detach().copy_(kept)


def test_what_cannot_change_is_not_computed_again(any_model: PreTrainedModel, rows: Tensor) -> None:
    last = find_layout(any_model)
    calls: dict[str, int] = {"first": 0, "last": 0}
    blocks = any_model.get_submodule(last.blocks)
    for name, block in zip(calls, blocks, strict=True):
        matrix = block.get_submodule(last.layers[0].mlp_down)
        matrix.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    ablated_losses(any_model, rows[:, :-1], rows[:, -1], "activation", max_rows=5)
    neurons = find_units(any_model, "activation")["mlp_act.0"].num_units
    # whole once, again to see which arguments grow with the rows, to try the shortcuts, and without any neuron; the
    # same of a few rows, as it is and moved, and without each half of the neurons of two blocks; then the first block
    # is never run, the last for the first's neurons only
    assert calls["first"] <= 5 + 5 + 2 + 4
    assert neurons < calls["last"] <= neurons + 8 + 8 + 2 + 4 + 1


def test_in_the_last_block_only_the_last_position_looks(
    any_model: PreTrainedModel, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    any_model.set_attn_implementation("sdpa")
    find_units(any_model, "activation")
    looking: list[int] = []
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def recorded(module: nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        looking.append(query.shape[2])
        return attend(module, query, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", recorded)
    ablated_losses(any_model, rows[:, :-1], rows[:, -1], "activation")
    assert looking[:2] == [8, 8]  # the model as it is
    assert looking[-1] == 1
    before = len(looking)
    loss_of(any_model, rows)
    assert looking[before:] == [8, 8]  # and it is as it was


def test_a_model_that_is_more_than_its_blocks_is_refused(rows: Tensor) -> None:
    model = make_gpt2(40)
    embedded: list[Tensor] = []
    model.transformer.wte.register_forward_hook(lambda _, args, output: embedded.append(output))
    model.transformer.ln_f.register_forward_hook(lambda _, args, output: output + embedded[-1].mean(1, keepdim=True))
    with pytest.raises(ValueError, match="the blocks of gpt2, run one after the other, do not give its logits"):
        ablated_losses(model, rows[:, :-1], rows[:, -1], "head")


class ScaledMlp(nn.Module):
    """Its output is normalised before it is added: to take a neuron's share out of the stream would be wrong."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, hidden: Tensor) -> Tensor:
        return F.layer_norm(self.inside(hidden), (16,))


def test_a_shortcut_that_would_be_wrong_is_not_taken(rows: Tensor) -> None:
    model = make_gpt2(40)
    for block in model.transformer.h:
        block.mlp = ScaledMlp(block.mlp)
    whole, losses = ablated_losses(model, rows[:, :-1], rows[:, -1], "activation")
    assert whole == pytest.approx(loss_of(model, rows), abs=1e-6)
    for layer, block in enumerate(model.transformer.h):
        matrix = block.mlp.inside.c_proj
        assert isinstance(matrix, Conv1D)
        for number in (0, 9, 33):
            row = matrix.weight.detach()[number].clone()
            matrix.weight.detach()[number] = 0
            assert float(losses[f"mlp_act.{layer}"][number]) == pytest.approx(loss_of(model, rows), abs=2e-4)
            matrix.weight.detach()[number] = row


@pytest.mark.parametrize("unit", ["activation", "head"])
def test_units_may_be_on_another_device_than_the_first_weights(rows: Tensor, unit: Unit) -> None:
    model = make_llama(40)
    whole, expected = ablated_losses(model, rows[:, :-2], rows[:, -2], unit)
    with simulated_gpu():
        placed = place(model, "cpu", "gpu")
        assert {group.weight.device.type for group in find_units(placed, unit).values()} == {"cpu", "gpu"}
        found, losses = ablated_losses(placed, rows[:, :-2], rows[:, -2], unit)
    assert found == pytest.approx(whole, rel=1e-6)
    for name, each in expected.items():
        torch.testing.assert_close(losses[name], each, rtol=1e-6, atol=1e-6)


def test_single_weights_are_too_many(rows: Tensor) -> None:
    with pytest.raises(ValueError, match="weight has too many units to ablate each"):
        ablated_losses(make_gpt2(40), rows[:, :-1], rows[:, -1], "weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_other_shapes_round_otherwise_is_no_fault_in_half_precision(rows: Tensor, dtype: torch.dtype) -> None:
    """On a GPU more rows are added up in another order: by as much as bfloat16 rounds, and no more."""
    model = make_gpt2(40).to(dtype)

    def otherwise(module: torch.nn.Module, args: object, output: Tensor) -> Tensor:
        return output * (1 + 2**-7 * (len(output) > len(rows)))

    model.transformer.h[0].mlp.register_forward_hook(otherwise)
    if dtype == torch.float32:
        with pytest.raises(ValueError, match="the blocks of gpt2, run one after the other, do not give its logits"):
            ablated_losses(model, rows[:, :-1], rows[:, -1], "activation")
    else:
        assert ablated_losses(model, rows[:, :-1], rows[:, -1], "activation")[0] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neurons_behind_which_a_norm_stands_do_not_just_add(
    dtype: torch.dtype, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Gemma 2, in which one neuron moves the logits by less than half precision tells from none."""
    config = Gemma2Config(
        vocab_size=40, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    normed, plain = Gemma2ForCausalLM(config).eval().to(dtype), make_llama(40).to(dtype)
    taken: list[str] = []
    add = _Ablation._without_added
    monkeypatch.setattr(_Ablation, "_without_added", lambda self, *given: (taken.append("added"), add(self, *given))[1])
    ablated_losses(normed, rows[:, :-1], rows[:, -1], "activation")
    assert taken == []
    ablated_losses(plain, rows[:, :-1], rows[:, -1], "activation")
    assert taken, "the control: without a norm the shortcut is taken"
