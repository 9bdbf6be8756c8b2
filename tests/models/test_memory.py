"""What is accounted for from a config is what models really take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma3nTextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from ftmech_hf.config import Notice
from ftmech_hf.models.conversion import ARTEFACTS, load_artefact
from ftmech_hf.models.memory import (
    check_memory,
    forward_bytes,
    gradient_bytes,
    parse_bytes,
    say_bytes,
    training_bytes,
    weight_bytes,
)
from ftmech_hf.training.optim import build_optimizers
from tests.conftest import make_gpt2, make_llama
from tests.models.test_merging import make_tied

SEVEN_B = LlamaConfig(vocab_size=32000)
ONE_B = LlamaConfig(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
    num_key_value_heads=8, tie_word_embeddings=True,
)  # fmt: skip


@pytest.mark.parametrize("make", [make_gpt2, make_llama, make_tied])
def test_weights_take_what_a_model_of_that_config_takes(make: type[PreTrainedModel]) -> None:
    model = make(40)
    held = {id(each): each.nbytes for each in (*model.parameters(), *model.buffers())}
    assert weight_bytes(model.config) == sum(held.values())


def test_large_models_take_what_is_known_of_them() -> None:
    """Llama 2 7B has 6,738,415,616 weights, Llama 3.2 1B 1,235,814,400."""
    assert weight_bytes(SEVEN_B, torch.bfloat16) == pytest.approx(2 * 6_738_415_616, abs=10_000)
    assert weight_bytes(ONE_B, torch.bfloat16) == pytest.approx(2 * 1_235_814_400, abs=10_000)
    assert weight_bytes(ONE_B) == pytest.approx(4 * 1_235_814_400, abs=10_000)


def test_a_pair_fits_where_it_should() -> None:
    """Both models and a forward pass of 32 rows of 512 tokens: 7B on one card of 80 GB, 1B in 16 GB of memory."""
    for config, limit in ((SEVEN_B, 80e9), (ONE_B, 16e9)):
        pair = 2 * weight_bytes(config, torch.bfloat16)
        assert pair + forward_bytes(config, 32, 512, dtype=torch.bfloat16) < limit
        assert 6 * pair > limit  # and no bound that everything keeps


def test_a_step_of_training_takes_what_it_is_said_to() -> None:
    """Gradients and moments to the byte; what is kept for the backward pass within a third of it to three times it."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=4, num_attention_heads=4, vocab_size=50,
        max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    model, rows = LlamaForCausalLM(config), torch.randint(0, 50, (8, 48))
    parameters = {each.data_ptr() for each in model.parameters()}
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        if value.data_ptr() not in parameters:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = model(rows, labels=rows, use_cache=False).loss
    loss.backward()
    (optimizer,) = build_optimizers(model, optimizer="adamw", lr=1e-3, muon_lr=1e-3, weight_decay=0, betas=(0.9, 0.95))
    optimizer.step()
    moments = [each for state in optimizer.state.values() for each in state.values() if each.ndim]
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    weights = sum(each.nbytes for each in model.parameters())
    assert sum(each.nbytes for each in (*moments, *gradients)) == 3 * weights
    assert training_bytes(config, 0, 48) == 3 * weight_bytes(config)  # with the buffers, a few bytes more
    said = training_bytes(config, 8, 48) - 3 * weight_bytes(config)
    assert said / 3 < sum(kept.values()) < said * 3


@pytest.mark.parametrize(("text", "size"), [("16GB", 16e9), ("80 GiB", 80 * 2**30), ("500m", 5e8), ("1.5T", 1.5e12)])
def test_sizes_are_read_as_people_write_them(text: str, size: float) -> None:
    assert parse_bytes("max_memory", text) == size


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0GB", "3 XB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"max_memory: .* expected a size such as 16GB or 80GiB"):
        parse_bytes("max_memory", text)


def test_sizes_are_said_in_three_digits() -> None:
    assert [say_bytes(each) for each in (13_476_831_232, 2.5e12, 999_400, 5)] == [
        "13.5 GB",
        "2.5 TB",
        "999 kB",
        "0.005 kB",
    ]


def test_much_memory_is_said_and_too_much_refused() -> None:
    needs = {"one": 1_500_000_000, "other": 500_000_000}
    with pytest.warns(Notice, match=r"^this job needs about 2 GB of memory: one 1.5 GB, other 500 MB$"):
        check_memory("this job", needs, "3GB", "less takes less")
    with pytest.raises(ValueError, match=r"^max_memory: 1GB, expected about 2 GB \(one .*\); less takes less$"):
        check_memory("this job", needs, "1GB", "less takes less")
    check_memory("this job", {"one": 10**8}, None, "")  # not worth saying: no warning


@pytest.mark.parametrize(
    "config",
    [MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2), Gemma3nTextConfig(num_hidden_layers=2)],
)
def test_models_without_heads_and_with_blocks_of_several_widths_are_accounted_for(config: PreTrainedConfig) -> None:
    """As of Mamba and of Gemma 3n, which the analyses refuse in words of their own."""
    assert forward_bytes(config, 4, 16) > forward_bytes(config, 2, 16) > 0


def test_a_program_without_an_unembedding_takes_what_its_blocks_do() -> None:
    model, _ = load_artefact(next(iter(ARTEFACTS)))
    assert gradient_bytes(model.config, rows=2, tokens=8) > 0
