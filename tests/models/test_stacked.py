from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from ftmech_hf.models.presets import Preset, build_model
from ftmech_hf.models.stacked import Layout, stack_model

VOCABULARY = 23


def models(tied: bool = False) -> list[PreTrainedModel]:
    """Three models whose every weight differs, biases and norms too."""
    found = []
    for seed in range(3):
        shape = Preset(n_layer=2, n_head=2, n_embd=8, n_positions=12, tied=tied)
        model = build_model(shape, VOCABULARY, seed=seed).double().eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.3 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        found.append(model)
    return found


def stacked(each: list[PreTrainedModel]) -> tuple[Layout, Tensor]:
    layout = Layout(each[0])
    return layout, torch.stack([layout.flatten(dict(model.named_parameters())) for model in each])


ROWS = torch.randint(0, VOCABULARY, (3, 4, 9), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_models_at_once_say_what_each_says_alone(tied: bool, last: bool) -> None:
    """Logits and gradients of transformers' own models, to rounding in float64; a control shifts one weight."""
    each = models(tied)
    layout, weights = stacked(each)
    weights.requires_grad_()
    run = stack_model(each[0], precision=torch.float64)
    found = run(layout.stacked_views(weights), ROWS, last=last)
    expected = torch.stack([model(rows).logits for model, rows in zip(each, ROWS, strict=True)])
    expected = expected[:, :, -1:] if last else expected
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-10, rtol=0)
    (gradient,) = torch.autograd.grad(found.square().sum(), weights)
    for model, row, logits in zip(each, gradient, expected, strict=True):
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()), retain_graph=True)
        want = torch.cat([one.flatten() for one in gradients])
        assert torch.allclose(row, want, atol=1e-9 * float(want.abs().max()), rtol=1e-8)
    changed = weights.detach().clone()
    changed[1] += 1e-6
    again = run(layout.stacked_views(changed), ROWS, last=last)
    assert torch.equal(again[0], found[0])
    assert not torch.allclose(again[1], expected[1], atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_blocks_say_the_same() -> None:
    each = models()
    layout, weights = stacked(each)
    run = stack_model(each[0], precision=torch.float64, compiled=True)
    for last in (False, True):
        expected = stack_model(each[0], precision=torch.float64)(layout.stacked_views(weights), ROWS, last=last)
        assert torch.allclose(run(layout.stacked_views(weights), ROWS, last=last), expected, atol=1e-10, rtol=0)


def test_rows_of_weights_are_read_and_written_by_name() -> None:
    one, other = models()[:2]
    layout, weights = stacked([one, other])
    assert layout.size == weights.shape[1] == sum(p.numel() for p in one.parameters())
    layout.load(weights[1], one)
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in one.named_parameters())


def test_what_is_not_written_out_is_refused() -> None:
    config = GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=4)
    with pytest.raises(ValueError, match="model: gpt2 with dropout"):
        stack_model(GPT2LMHeadModel(config))
    plain = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    for unusual in ({"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}):
        config = GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=8, n_positions=4, **plain, **unusual)
        with pytest.raises(ValueError, match="GPT2LMHeadModel of gpt2, expected a usual GPT-2"):
            stack_model(GPT2LMHeadModel(config))
    llama = build_model(Preset(1, 1, 8, 8, "llama"), VOCABULARY, seed=0)
    with pytest.raises(ValueError, match="LlamaForCausalLM of llama, expected"):
        stack_model(llama)
