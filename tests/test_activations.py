from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from ftmech_hf.activations import LAYOUTS, SITES, TracedModel, model_blocks
from ftmech_hf.training.objectives import answer_accuracy, answer_logits
from tests.conftest import make_gpt2, make_llama


@pytest.fixture
def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 40, (10, 12))


def down_projections(model: PreTrainedModel) -> list[nn.Module]:
    path = LAYOUTS[model.config.model_type].mlp_down
    return [block.get_submodule(path) for _, block in model_blocks(model)]


def test_the_stream_is_hf_hidden_states(any_model: PreTrainedModel, rows: Tensor) -> None:
    found = TracedModel(any_model).collect(rows, ["resid_pre", "resid_post"], position=5, batch_size=10)
    with torch.no_grad():
        hidden = any_model(rows, output_hidden_states=True).hidden_states
    for layer in range(2):
        assert torch.equal(found["resid_pre", layer], hidden[layer][:, 5])
    assert torch.equal(found["resid_post", 0], hidden[1][:, 5])
    # the last hidden state has gone through the final norm, the last stream has not
    assert not torch.allclose(found["resid_post", 1], hidden[2][:, 5], atol=1e-3)
    norm = any_model.transformer.ln_f if any_model.config.model_type == "gpt2" else any_model.model.norm
    assert torch.allclose(norm(found["resid_post", 1]), hidden[2][:, 5], atol=1e-6)


def test_every_site_is_what_a_forward_hook_sees(any_model: PreTrainedModel, rows: Tensor) -> None:
    found = TracedModel(any_model).collect(rows, SITES, position=-1, batch_size=10)
    seen: dict[tuple[str, int], Tensor] = {}
    handles = []
    for layer, ((_, block), down) in enumerate(zip(model_blocks(any_model), down_projections(any_model), strict=True)):
        attention = block.get_submodule(LAYOUTS[any_model.config.model_type].attention)

        def attention_hook(module: nn.Module, args: object, output: tuple[Tensor, Tensor], layer: int = layer) -> None:
            seen["attn_out", layer], seen["attn_pattern", layer] = output[0][:, -1], output[1][:, :, -1]

        def down_hook(module: nn.Module, args: tuple[Tensor], layer: int = layer) -> None:
            seen["mlp_act", layer] = args[0][:, -1]

        handles += [attention.register_forward_hook(attention_hook), down.register_forward_pre_hook(down_hook)]
    with torch.no_grad():
        any_model(rows)
    for handle in handles:
        handle.remove()
    assert len(seen) == 6
    for key, value in seen.items():
        assert torch.equal(found[key], value), key
    assert torch.allclose(found["attn_pattern", 0].sum(-1), torch.ones(()), atol=1e-5)


def test_batches_agree_to_rounding_and_layers_can_be_chosen(any_model: PreTrainedModel, rows: Tensor) -> None:
    traced = TracedModel(any_model)
    whole = traced.collect(rows, ["resid_post", "mlp_act"])
    parts = traced.collect(rows, ["resid_post", "mlp_act"], batch_size=3)
    assert all(torch.allclose(whole[key], parts[key], atol=1e-5) for key in whole)
    assert list(traced.collect(rows, ["mlp_act"], layers=[1])) == [("mlp_act", 1)]


def test_later_blocks_are_not_computed(any_model: PreTrainedModel, rows: Tensor) -> None:
    traced = TracedModel(any_model)
    calls = []
    handle = model_blocks(any_model)[1][1].register_forward_pre_hook(lambda *_: calls.append(1))
    traced.collect(rows, ["resid_post"], layers=[0])
    assert calls == []
    traced.collect(rows, ["resid_post"], layers=[1])
    assert calls == [1]
    handle.remove()


def test_a_mask_is_a_zeroed_input_of_the_down_projection(any_model: PreTrainedModel, rows: Tensor) -> None:
    traced = TracedModel(any_model)
    mask = torch.rand(2, traced.num_neurons) > 0.5
    masked = traced.masked_logits(rows[:, :-2], mask)
    clean = answer_logits(any_model, rows)
    assert torch.allclose(traced.masked_logits(rows[:, :-2], torch.ones_like(mask)), clean, atol=1e-5)
    assert not torch.allclose(masked, clean, atol=1e-3)  # a write that silently did nothing would pass the next line
    with torch.no_grad():
        for kept, down in zip(mask, down_projections(any_model), strict=True):
            weight = down.weight
            weight.mul_(kept[:, None] if any_model.config.model_type == "gpt2" else kept[None, :])
    assert torch.allclose(answer_logits(any_model, rows), masked, atol=1e-5)
    accuracy = answer_accuracy(any_model, rows)
    assert traced.masked_accuracy(rows, torch.ones_like(mask), batch_size=4) == accuracy


def test_a_mask_leaves_the_model_as_it_was(any_model: PreTrainedModel, rows: Tensor) -> None:
    before = answer_logits(any_model, rows)
    traced = TracedModel(any_model)
    traced.masked_logits(rows[:, :-2], torch.zeros(2, traced.num_neurons))
    traced.activation_importance(rows)
    assert torch.equal(answer_logits(any_model, rows), before)


def test_activation_importance_is_the_slope_of_the_loss(any_model: PreTrainedModel, rows: Tensor) -> None:
    traced = TracedModel(any_model)
    importance = traced.activation_importance(rows, batch_size=4)

    def loss(mask: Tensor) -> float:
        return float(F.cross_entropy(traced.masked_logits(rows[:, :-2], mask).detach(), rows[:, -2]))

    step = 1e-2
    for layer, neuron in ((0, 0), (0, 7), (1, 3)):
        up, down = torch.ones_like(importance), torch.ones_like(importance)
        up[layer, neuron] += step
        down[layer, neuron] -= step
        assert (loss(up) - loss(down)) / (2 * step) == pytest.approx(float(importance[layer, neuron]), abs=2e-4)
    assert importance.abs().max() > 1e-3


def test_bad_requests_are_refused(rows: Tensor) -> None:
    traced = TracedModel(make_gpt2(40, attn="sdpa"))
    with pytest.raises(ValueError, match="sites: unknown 'layer_output', expected some of resid_pre"):
        traced.collect(rows, ["layer_output"])
    with pytest.raises(ValueError, match=r"layers: \[2\], expected some of 0 to 1"):
        traced.collect(rows, ["resid_post"], layers=[2])
    with pytest.raises(ValueError, match='attn_pattern needs a model loaded with attn_implementation="eager"'):
        traced.collect(rows, ["attn_pattern"])
    with pytest.raises(ValueError, match=r"mlp_mask: \(2, 3\), expected \(2, 64\)"):
        traced.masked_logits(rows, torch.ones(2, 3))


def test_the_door_opens_only_where_it_knows_the_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTNeoXConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=40
    )
    with pytest.raises(ValueError, match="architecture 'gpt_neox' is not supported, expected one of gpt2, llama"):
        TracedModel(GPTNeoXForCausalLM(config))
    model = make_llama(40)
    monkeypatch.setitem(LAYOUTS, "llama", LAYOUTS["llama"]._replace(mlp_down="mlp.c_proj"))
    with pytest.raises(ValueError, match="lacks an expected site"):
        TracedModel(model)
    monkeypatch.setitem(
        LAYOUTS, "llama", LAYOUTS["llama"]._replace(attention="mlp.gate_proj", mlp_down="mlp.down_proj")
    )
    with pytest.raises(ValueError, match="attn_out of layer 0"):
        TracedModel(model)
