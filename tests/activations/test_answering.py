from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftmech_hf.activations import answers_alone, model_blocks
from tests.conftest import make_gpt2

ROWS = torch.randint(3, 40, (6, 9), generator=torch.Generator().manual_seed(3))


def last_logits(model: PreTrainedModel, rows: Tensor = ROWS) -> Tensor:
    return model(rows, logits_to_keep=1, use_cache=False).logits[:, -1]


def positions_of_last_mlp(model: PreTrainedModel) -> int:
    """At how many positions of a row the last block's MLP computes."""
    seen: list[int] = []
    mlp = model_blocks(model)[-1][1].get_submodule("mlp")
    handle = mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel() // args[0].shape[-1]))
    try:
        last_logits(model)
    finally:
        handle.remove()
    return seen[0] // len(ROWS)


def test_the_last_block_computes_at_the_last_position_alone_and_gives_the_same_logits(
    any_model: PreTrainedModel,
) -> None:
    any_model.eval()
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in any_model.modules()]
    expected = last_logits(any_model)
    (expected.logsumexp(-1).sum()).backward()
    gradients = {name: p.grad.clone() for name, p in any_model.named_parameters() if p.grad is not None}
    any_model.zero_grad()
    with answers_alone(any_model, ROWS[:2]):
        assert positions_of_last_mlp(any_model) == 1
        found = last_logits(any_model)
        found.logsumexp(-1).sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == {name for name, p in any_model.named_parameters() if p.grad is not None}
    for name, parameter in any_model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4)
    assert positions_of_last_mlp(any_model) == 9
    assert torch.equal(last_logits(any_model), expected)
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in any_model.modules()]
    assert not any_model.training


def test_it_is_not_done_where_it_would_change_the_answer() -> None:
    """A part of the last block that mixes positions, and dropout, whose numbers would be others."""
    mixing = make_gpt2(40).eval()
    mlp: nn.Module = mixing.transformer.h[-1].mlp
    mlp.register_forward_hook(lambda module, args, output: output + args[0].mean(1, keepdim=True))
    dropping = make_gpt2(40).eval()
    dropping.transformer.h[-1].mlp.dropout.p = 0.5
    for model in (mixing, dropping):
        expected = last_logits(model)
        with answers_alone(model, ROWS[:2]):
            assert positions_of_last_mlp(model) == 9
            assert torch.equal(last_logits(model), expected)
        assert not model.training
    before = torch.random.get_rng_state()
    with answers_alone(dropping, ROWS[:2]):
        assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_that_answers_elsewhere_computes_everywhere() -> None:
    model = make_gpt2(40).eval()
    model.config.answer_position = 4
    with answers_alone(model, ROWS[:2]):
        assert positions_of_last_mlp(model) == 9


def test_a_fault_while_it_is_open_leaves_the_attention_as_it_was() -> None:
    model = make_gpt2(40).eval()
    expected, implementation = last_logits(model), model.config._attn_implementation

    def fail(*_: object) -> None:
        raise KeyError("stopped")

    with answers_alone(model, ROWS[:2]):
        handle = model.transformer.h[-1].mlp.register_forward_pre_hook(fail)
        try:
            last_logits(model)
        except KeyError:
            handle.remove()
    assert model.config._attn_implementation == implementation
    assert torch.equal(last_logits(model), expected)


def test_fused_attention_asks_for_the_last_position_alone_and_heeds_padding() -> None:
    model = make_gpt2(40, attn="sdpa").eval()
    shown = torch.ones_like(ROWS)
    shown[:3, :4] = 0
    padded = {"attention_mask": shown, "position_ids": (shown.cumsum(1) - 1).clamp(min=0), "logits_to_keep": 1}
    expected, alone = model(ROWS, **padded).logits, last_logits(model, ROWS[:3, 4:])
    torch.testing.assert_close(expected[:3, -1], alone, atol=1e-5, rtol=1e-5)
    asked: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, *args: object, **options: object) -> Tensor:
        asked.append(query.shape[2])
        return attend(query, *args, **options)

    torch.nn.functional.scaled_dot_product_attention = counted
    try:
        with answers_alone(model, ROWS[:2]):
            asked.clear()
            found = model(ROWS, **padded).logits
    finally:
        torch.nn.functional.scaled_dot_product_attention = attend
    assert asked == [9, 1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
