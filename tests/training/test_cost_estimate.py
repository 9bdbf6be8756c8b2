from __future__ import annotations

import pytest
import torch

from ftmech_hf.models.small import small_model
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.cost_estimate import Clock, project, training_flops
from tests.conftest import make_gpt2, make_llama
from tests.models.test_merging import make_tied


def test_the_projection_leaves_out_the_first_steps_and_counts_evaluations() -> None:
    clock = Clock()
    clock.step_seconds = [60.0, 9.0, 9.0, 2.0, 2.0, 5.0]
    clock.evaluation_seconds, clock.evaluated_rows = 3.0, 30
    found = project(clock, 1800, 36_000, 1e12, None)
    assert found["seconds_per_step"] == 2.0
    assert found["hours"] == pytest.approx((1800 * 2 + 36_000 * 0.1) / 3600)
    assert found["evaluation_share"] == pytest.approx(0.5)
    assert "cost" not in found
    assert project(clock, 1800, 36_000, 1e12, 3.0)["cost"] == pytest.approx(6.0)


def test_a_clock_counts_what_it_is_shown() -> None:
    clock = Clock(waits_for=torch.device("cpu"))
    with clock.step(), clock.evaluation(7):
        pass
    assert len(clock.step_seconds) == 1
    assert clock.evaluated_rows == 7
    assert 0 <= clock.evaluation_seconds <= clock.step_seconds[0] < 1


def test_operations_are_those_of_the_weights_that_a_token_passes() -> None:
    """Six of each, four of what is frozen; of experts as many as are chosen; an embedding is looked up."""
    llama = make_llama(40)
    matrices = sum(each.numel() for name, each in llama.named_parameters() if "embed" not in name)
    assert training_flops(llama, 10) == 60 * matrices
    tied = make_tied(40)
    assert training_flops(tied, 10) == 60 * sum(each.numel() for each in tied.parameters())
    gpt2 = make_gpt2(40)
    assert training_flops(gpt2, 10) == 60 * sum(
        each.numel() for name, each in gpt2.named_parameters() if "wte" not in name and "wpe" not in name
    )
    mixed = small_model("mixtral")
    config = mixed.config
    in_experts = sum(each.numel() for name, each in mixed.named_parameters() if ".experts." in name)
    others = sum(p.numel() for name, p in mixed.named_parameters() if ".experts." not in name and "embed" not in name)
    assert 0 < config.num_experts_per_tok < config.num_local_experts
    passed = in_experts * config.num_experts_per_tok / config.num_local_experts
    assert training_flops(mixed, 1) == pytest.approx(6 * (others + passed))
    adapted = add_adapter(make_llama(40), AdapterConfig(adapter="lora", lora_rank=2), base="", seed=0)
    added = sum(each.numel() for name, each in adapted.named_parameters() if "lora_" in name)
    assert training_flops(adapted, 1) == 4 * matrices + 6 * added
