"""Models that are not what they look like: each of the door's proofs has one that no other proof catches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from ftmech_hf.activations import SITES, TracedModel, ablated_losses, find_layout, find_units
from ftmech_hf.activations.layout import find_parts
from ftmech_hf.activations.sites import EXPERT_SITES
from ftmech_hf.config.notices import Notice
from tests.architectures import make
from tests.conftest import make_gpt2, make_llama

DENSE = tuple(site for site in SITES if site not in EXPERT_SITES)

Forward = Callable[[nn.Module, Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]
"""(block, stream, what attention returns, the norm and MLP) -> the stream behind the block."""


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(3, 40, (3, 8), generator=torch.Generator().manual_seed(1))


def doctored(change: Forward, layer: int = 1) -> LlamaForCausalLM:
    """A Llama in one of whose blocks parts are put together otherwise."""
    model = make_llama(40)
    block = model.model.layers[layer]

    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        attended, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_states), **kwargs)
        return change(block, hidden_states, attended, lambda stream: block.mlp(block.post_attention_layernorm(stream)))

    block.forward = forward
    return model


def plain(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    stream = stream + attended
    return stream + mlp(stream)


def in_place(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    attended += stream
    return attended.add_(mlp(attended))


def doubled(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    return plain(block, stream, 2 * attended, mlp)


def forgotten(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    """The MLP sees what attention adds, the stream does not receive it."""
    return stream + mlp(stream + attended)


def added_twice(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    return plain(block, stream, attended, mlp) + stream


def two_mlps(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    """As a shared expert beside others."""
    stream = stream + attended
    return stream + mlp(stream) + stream.tanh()


def one_later(stream: Tensor) -> Tensor:
    """What stood at every position at the next one, and nothing at the first: what is rolled would tell of the last."""
    return nn.functional.pad(stream, (0, 0, 1, 0))[:, :-1]


def shifted(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    """The MLP reads the position before, too, as in RWKV."""
    stream = stream + attended
    return stream + mlp(stream + one_later(stream))


def normed(block: nn.Module, stream: Tensor, attended: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    """The stream itself is not added to, but what attention read."""
    stream = block.input_layernorm(stream) + attended
    return stream + mlp(stream)


REFUSED: dict[Forward, set[str]] = {
    plain: set(),
    in_place: set(),
    doubled: {"attn_out", "head_out", "mlp_act"},
    forgotten: {"attn_out", "head_out", "mlp_act"},
    added_twice: {"attn_out", "head_out", "mlp_act"},
    two_mlps: {"attn_out", "head_out", "mlp_act"},
    shifted: {"mlp_act"},
    normed: {"attn_out", "head_out", "mlp_act"},
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_block_put_together_otherwise_has_no_wrong_site(change: Forward, layer: int, rows: Tensor) -> None:
    model = doctored(change, layer)
    opened = TracedModel(model)
    refused = set(DENSE) - set(opened.sites)
    assert refused - {"attn_pattern"} == REFUSED[change]
    for site in REFUSED[change]:
        with pytest.raises(ValueError, match=rf"^sites: {site} block {layer} of llama (adds|has) [^\n]*$"):
            opened.collect(rows, [site])
    if change in (plain, in_place):
        found = opened.collect(rows, ["resid_pre", "attn_out", "mlp_act"], layers=[layer])
        same = TracedModel(make_llama(40)).collect(rows, ["resid_pre", "attn_out", "mlp_act"], layers=[layer])
        assert all(torch.allclose(value, same[key], atol=1e-6) for key, value in found.items())


def test_a_constant_that_block_or_config_name_is_part_of_the_site(rows: Tensor) -> None:
    model = make_llama(40)
    for layer, block in enumerate(model.model.layers):
        block.depth_scale = 0.3
        model.model.layers[layer].forward = doctored_forward(block)
    layout = find_layout(model)
    assert [(each.attention_added, each.attention_scale) for each in layout.layers] == [("self_attn", 0.3)] * 2
    seen: list[Tensor] = []
    block.post_attention_layernorm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    opened = TracedModel(model)
    found = opened.collect(rows, ["resid_pre", "attn_out"], layers=[1], positions=list(range(8)))
    with torch.no_grad():
        model(rows)
    assert torch.allclose(found["attn_out", 1], seen[-1] - found["resid_pre", 1], atol=1e-6)
    with torch.no_grad(), opened.intervene({("attn_out", 1): lambda value: value + 1.0}):
        model(rows)
    assert torch.allclose(seen[-1], found["resid_pre", 1] + found["attn_out", 1] + 1, atol=1e-5)
    with torch.no_grad(), opened.intervene({("attn_out", 1): lambda value: value}):
        looked_at = model(rows).logits  # to look is not to write
    with torch.no_grad():
        assert torch.equal(looked_at, model(rows).logits)


def doctored_forward(block: nn.Module) -> Callable[..., Tensor]:
    def forward(hidden_states: Tensor, **kwargs: Any) -> Tensor:
        attended, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_states), **kwargs)
        stream = hidden_states + block.depth_scale * attended
        added: Tensor = block.mlp(block.post_attention_layernorm(stream))
        return stream + added

    return forward


def test_what_passes_a_gate_behind_it_does_not_make_the_output() -> None:
    """The matrix' output is multiplied by something of the stream: its input alone does not say what is added."""
    model = make_llama(40)
    attention = model.model.layers[1].self_attn
    inside = attention.forward

    def gated(hidden_states: Tensor, **kwargs: Any) -> Any:
        output, pattern = inside(hidden_states=hidden_states, **kwargs)
        return output * hidden_states.sigmoid(), pattern

    attention.forward = gated
    opened = TracedModel(model)
    assert "block 1 of llama has no matrix in self_attn that makes what it adds" in opened.refused["head_out"]
    assert {"attn_out", "mlp_act"} <= set(opened.sites)


def test_what_is_mixed_with_other_positions_behind_it_does_not_make_the_output() -> None:
    model = make_llama(40)
    attention = model.model.layers[1].self_attn
    inside = attention.forward

    def convolved(hidden_states: Tensor, **kwargs: Any) -> Any:
        output, pattern = inside(hidden_states=hidden_states, **kwargs)
        return output + one_later(output), pattern

    attention.forward = convolved
    opened = TracedModel(model)
    assert "block 1 of llama has no matrix in self_attn that makes what it adds" in opened.refused["head_out"]


def test_of_two_matrices_in_a_row_the_last_is_the_last(rows: Tensor) -> None:
    model = make_llama(40)
    for block in model.model.layers:
        block.self_attn.o_proj = nn.Sequential(block.self_attn.o_proj, nn.Linear(16, 16))
    opened = TracedModel(model)
    assert [parts.heads for parts in find_parts(model)] == [["self_attn.o_proj.1"]] * 2  # and not the first
    assert "attn_pattern" in opened.refused  # its input is not the heads' outputs side by side
    with pytest.raises(ValueError, match=r"4 slices of what self_attn.o_proj.1 reads in block 0 of llama are not one"):
        find_units(model, "head")


def test_parts_that_are_all_zero_are_still_found(rows: Tensor) -> None:
    model = make_llama(40)
    right = find_layout(make_llama(40))
    with torch.no_grad():
        for block in model.model.layers:
            for matrix in (*block.self_attn.children(), *block.mlp.children()):
                for weight in matrix.parameters():
                    weight.zero_()
    assert find_layout(model) == right
    for parts in find_parts(model):  # what changes nothing makes nothing
        assert (parts.heads, parts.neurons) == (["self_attn.o_proj"], ["mlp.down_proj"])
    assert TracedModel(model).sites == DENSE


@pytest.mark.parametrize("change", ["others", "of twice the size", "none"])
def test_patterns_that_are_not_what_heads_attend_by_are_refused(change: str) -> None:
    model = make_llama(40)
    attention = model.model.layers[1].self_attn
    inside = attention.forward

    def returning(**kwargs: Any) -> Any:
        output, pattern = inside(**kwargs)
        return output, {"others": pattern.flip(1), "of twice the size": 2 * pattern, "none": None}[change]

    attention.forward = returning
    opened = TracedModel(model)
    message = {"others": "is not what their patterns say", "of twice the size": "do not sum to one", "none": "none"}
    assert message[change] in opened.refused["attn_pattern"]
    assert "block 1 of llama" in opened.refused["attn_pattern"]


@pytest.mark.parametrize("name", ["llama", "bloom", "gemma2", "granite", "opt", "phi3", "falcon 40b"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parts_are_the_same_in_half_precision(name: str, dtype: torch.dtype) -> None:
    expected = find_layout(make(name))
    assert find_layout(make(name).to(dtype)) == expected


def test_opening_leaves_a_model_as_it_was_and_takes_few_passes() -> None:
    model = make_gpt2(40, dropout=0.1).train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    calls: list[int] = []
    model.register_forward_hook(lambda _, args, output: calls.append(len(args[0])))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    find_layout(model)
    assert len(calls) == 2
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.rand(1), expected)
    find_layout(model)
    assert len(calls) == 2  # known
    TracedModel(model)
    assert 2 < len(calls) <= 9
    assert not any(module._forward_pre_hooks for module in model.transformer.h)
    model.transformer.h[0].mlp = nn.Identity()
    with pytest.warns(Notice, match="only 1 of 2 blocks have units, 0 have no neurons that could be shown: block 0 of"):
        assert list(find_units(model, "activation")) == ["mlp_act.1"]  # and looked for again
    model.transformer.h[1].mlp = nn.Identity()
    with pytest.raises(ValueError, match="model: no mlp_act: block 0 of gpt2"):
        find_units(model, "activation")


def test_a_model_can_be_traced_after_its_blocks_were_called_alone(rows: Tensor) -> None:
    model = make_llama(40)
    opened = TracedModel(model)
    before = opened.collect(rows, DENSE)
    ablated_losses(model, rows[:, :-1], rows[:, -1], "head")
    after = opened.collect(rows, DENSE)
    assert all(torch.equal(after[key], value) for key, value in before.items())
