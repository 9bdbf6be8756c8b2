"""Attention without waiting is transformers' own where anybody looks: rows filled up, packed documents, windows."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    DeepseekV32Config,
    DeepseekV32ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from ftmech_hf.activations.calls import last_query
from ftmech_hf.training import attention
from ftmech_hf.training.attention import NAME, attending_without_waiting, boundaries, shown_without_waiting
from ftmech_hf.training.objectives import Batch, Documents, NextToken, Objective
from ftmech_hf.training.objectives.base import Shown
from ftmech_hf.training.total_loss import TotalLoss
from tests.conftest import make_gpt2, make_llama, make_neox

PAD, BOS = 0, 1


def make_mistral(vocab_size: int) -> MistralForCausalLM:
    """Whose tokens see the last five alone."""
    config = MistralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab_size, max_position_embeddings=32, sliding_window=5, initializer_range=0.3, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return MistralForCausalLM(config).eval()


def make_shared_heads(vocab_size: int) -> LlamaForCausalLM:
    """Two heads to a key, each of a width that kernels take."""
    config = LlamaConfig(
        hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab_size, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(params=["gpt2", "llama", "gpt_neox", "mistral"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    made: PreTrainedModel = {
        "gpt2": make_gpt2, "llama": make_llama, "gpt_neox": make_neox, "mistral": make_mistral,
    }[request.param](40)  # fmt: skip
    made.set_attn_implementation("sdpa")
    return made


def rows_of(*lengths: int) -> Batch:
    """Rows of so many tokens, filled up on their right."""
    token_ids = torch.randint(3, 40, (len(lengths), 14), generator=torch.Generator().manual_seed(0))
    real = torch.arange(14) < torch.tensor(lengths)[:, None]
    answers = real.clone()
    return Batch(token_ids.where(real, torch.tensor(PAD)), answers, None if real.all() else real)


def packed() -> Batch:
    rows = rows_of(14, 14, 11).token_ids
    for row, place in ((0, 0), (0, 5), (1, 0), (1, 3), (1, 9), (2, 0), (2, 6)):
        rows[row, place] = BOS
    return Batch(rows)


CASES: dict[str, tuple[Objective, Batch]] = {
    "whole rows": (NextToken(), rows_of(14, 14)),
    "rows of one shape": (NextToken(), Batch(rows_of(14, 14).token_ids)),
    "rows filled up": (NextToken(), rows_of(14, 6, 9)),
    "packed documents": (Documents(), packed()),
}


def gradients(model: PreTrainedModel, objective: Objective, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = TotalLoss(model, objective)(model, batch)
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_the_same(model: PreTrainedModel, case: str) -> None:
    other = copy.deepcopy(model)
    other.set_attn_implementation(NAME)
    (loss, usual), (there, without) = gradients(model, *CASES[case]), gradients(other, *CASES[case])
    torch.testing.assert_close(there, loss, rtol=1e-5, atol=1e-5)
    assert len(usual) == len(without)
    for one, two in zip(usual, without, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_the_check_above_can_fail(model: PreTrainedModel) -> None:
    """Packed documents as one, and whole rows with a token that nobody sees."""
    model.set_attn_implementation(NAME)
    objective, batch = CASES["packed documents"]
    shown = shown_without_waiting(model, objective.shown(batch))
    right = objective.loss(model(shown.token_ids, **shown.options).logits, batch)
    numbers = shown.options["attention_mask"]
    assert numbers.shape == (3, 1, 1, 13)
    assert numbers[1, 0, 0].tolist() == [1] * 3 + [2] * 6 + [3] * 4
    shown.options["attention_mask"] = torch.ones_like(numbers)
    wrong = objective.loss(model(shown.token_ids, **shown.options).logits, batch)
    assert (right - wrong).abs() > 1e-3


def test_no_mask_is_made_where_a_kernel_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are filled up need none either; a dense one would take the fast kernels away."""
    given: list[Tensor | None] = []
    usual = attention.sdpa_attention_forward

    def seen(module: object, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **more: object) -> object:
        given.append(mask)
        return usual(module, q, k, v, mask, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "sdpa_attention_forward", seen)
    model = make_gpt2(40)
    model.set_attn_implementation(NAME)
    for case in ("whole rows", "rows of one shape", "rows filled up"):
        gradients(model, *CASES[case])
    assert given == [None] * 6
    model.set_attn_implementation("sdpa")


def test_it_is_of_training_on_a_gpu_alone() -> None:
    model = make_gpt2(40, attn="sdpa")
    shown = Shown(torch.zeros(1, 4), torch.ones(1, 4), {})
    with attending_without_waiting(model, torch.device("cpu")):
        assert model.config._attn_implementation == "sdpa"
        assert shown_without_waiting(model, shown) is shown
    with contextlib.suppress(KeyError), attending_without_waiting(model, torch.device("cuda")):
        assert model.config._attn_implementation == NAME
        assert set(shown_without_waiting(model, shown).options) == {"use_cache", "attention_mask"}
        raise KeyError
    assert model.config._attn_implementation == "sdpa"
    eager = make_gpt2(40, attn="eager")
    with attending_without_waiting(eager, torch.device("cuda")):
        assert eager.config._attn_implementation == "eager"


def test_parts_that_attend_in_another_way_go_on_so() -> None:
    """As a tower for sounds, which has no attention of torch's: to ask it to go back to that would be refused."""
    model = make_gpt2(40, attn="sdpa")
    model.tower = make_llama(40)
    assert model.tower.config._attn_implementation == "eager"
    with attending_without_waiting(model, torch.device("cuda")):
        assert model.config._attn_implementation == NAME
        assert model.tower.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "sdpa"
    assert model.tower.config._attn_implementation == "eager"


def test_a_model_that_chooses_what_it_attends_to_does_so_under_other_names_too() -> None:
    """Under a name that it does not know it would attend to everything."""
    config = DeepseekV32Config(
        vocab_size=40, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8,
        v_head_dim=8, index_topk=4, index_n_heads=2, index_head_dim=16, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = DeepseekV32ForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    rows = torch.arange(14)[None]
    with torch.no_grad():
        usual = model(rows).logits
        for another in (attending_without_waiting(model, torch.device("cuda")), last_query(model)):
            with another:
                assert torch.equal(model(rows).logits, usual)
        model.config.index_topk = 64
        for module in model.modules():
            if hasattr(module, "index_topk"):
                module.index_topk = 64
        assert not torch.allclose(model(rows).logits, usual), "the control: it does choose"


def test_documents_in_one_line_begin_where_their_numbers_change() -> None:
    """Of rows of 3 + 2, 1 + 4 and 5 tokens; of the nine places for documents four stay empty."""
    numbers = torch.tensor([[1, 1, 1, 2, 2], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.int32)[:, None, None]
    found = boundaries(numbers)
    assert found.dtype == torch.int32
    assert found.tolist() == [0, 3, 5, 6, 10, 15, 15, 15, 15, 15]
    many = torch.arange(5, dtype=torch.int32)[None, None, None]  # more than can be: none is left out
    assert boundaries(many).tolist() == [0, 1, 2, 5]


@pytest.mark.cuda
@pytest.mark.parametrize("make", [make_gpt2, make_shared_heads])
def test_a_kernel_without_a_mask_attends_to_each_document_alone(make: Callable[..., PreTrainedModel]) -> None:
    """As with the mask, up to the rounding of bfloat16; and not as without documents."""
    found = []
    for varlen, wrong in ((True, False), (False, False), (False, True)):
        model = make(40).to("cuda", torch.bfloat16)
        model.set_attn_implementation("sdpa")
        model.set_attn_implementation(NAME)
        batch = packed().to(torch.device("cuda"))
        if wrong:
            batch = Batch(batch.token_ids.where(batch.token_ids != BOS, 3))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "VARLEN", varlen and attention.VARLEN)
            assert attention._has_kernel(torch.zeros(1, 8, device="cuda", dtype=torch.bfloat16), {}) == varlen
            found.append(gradients(model, Documents(), batch)[1])
    kernel, masked, without = (torch.cat([each.float().flatten() for each in grads]) for grads in found)
    assert (kernel - masked).norm() < 0.03 * masked.norm()
    assert (without - masked).norm() > 0.3 * masked.norm()
