from __future__ import annotations

import itertools
import math

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ftmech_hf.models.presets import PRESETS, build_model
from ftmech_hf.training.adapters import AdapterConfig, add_adapter
from ftmech_hf.training.muon import Muon
from ftmech_hf.training.optim import SGD_MOMENTUM, build_optimizers, lr_factor, set_lr
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


def test_warming_up_to_the_end_and_beyond_is_a_line() -> None:
    factors = [lr_factor(s, steps=4, warmup_fraction=1.0, final_lr_fraction=0.1) for s in range(5)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(("optimizer", "kinds"), [
    ("muon", [Muon, torch.optim.AdamW]), ("adamw", [torch.optim.AdamW]), ("sgd", [torch.optim.SGD]),
])  # fmt: skip
def test_every_optimizer_has_its_own_settings(optimizer: str, kinds: list[type]) -> None:
    model = make_gpt2(40)
    frozen = model.get_parameter("transformer.h.0.mlp.c_fc.weight").requires_grad_(False)
    built = build_optimizers(model, optimizer=optimizer, **SETTINGS)  # type: ignore[arg-type]
    assert [type(each) for each in built] == kinds
    for each in built:
        for group in each.param_groups:
            assert group["lr"] == group["peak_lr"] == (0.02 if isinstance(each, Muon) else 1e-3)
            assert group["weight_decay"] == 0.01
            assert group.get("betas", (0.9, 0.95)) == (0.9, 0.95)
            assert group.get("momentum", SGD_MOMENTUM) == SGD_MOMENTUM or isinstance(each, Muon)
            assert all(p is not frozen for p in group["params"])
    assert isinstance(built[-1], torch.optim.SGD) or built[-1].param_groups[0]["fused"]
    set_lr(built, 0.5)
    set_lr(built, 0.25)  # of the peak, and not of what it was
    for each in built:
        assert [group["lr"] for group in each.param_groups] == [0.25 * group["peak_lr"] for group in each.param_groups]


def test_nothing_is_built_for_what_is_not_there() -> None:
    only_matrices = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False))
    assert [type(each) for each in build_optimizers(only_matrices, optimizer="muon", **SETTINGS)] == [Muon]  # type: ignore[arg-type]
    for optimizer in ("sgd", "adamw", "muon"):
        assert build_optimizers(only_matrices.requires_grad_(False), optimizer=optimizer, **SETTINGS) == []  # type: ignore[arg-type]


def test_the_matrix_of_the_head_is_no_hidden_matrix() -> None:
    model = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(3, 5), "hidden": torch.nn.Linear(3, 4)})
    muon, adamw = build_optimizers(model, optimizer="muon", **SETTINGS)  # type: ignore[arg-type]
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(4, 3)]
    assert [p.shape for p in adamw.param_groups[0]["params"]] == [(5, 3), (5,), (4,)]


_SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1,
          "eos_token_id": 2}  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "not_taken", "taken"), [
    ("rwkv", {"attention_hidden_size": 32}, ["head.weight"], "attention.key.weight"),
    ("gpt_neox_japanese", {"num_attention_heads": 2, "intermediate_multiple_size": 2}, ["embed_out.weight"],
     "attention.dense.weight"),
    ("mamba", {"state_size": 4}, ["lm_head.weight", "mixer.A_log"], "mixer.in_proj.weight"),
])  # fmt: skip
def test_no_unembedding_and_no_table_of_another_architecture_is_a_hidden_matrix(
    kind: str, settings: dict[str, object], not_taken: list[str], taken: str
) -> None:
    config = CONFIG_MAPPING[kind](**_SMALL, **settings, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, _ = build_optimizers(model, optimizer="muon", **SETTINGS)  # type: ignore[arg-type]
    held = [names[id(p)] for p in muon.param_groups[0]["params"]]
    assert any(name.endswith(taken) for name in held)
    for end in not_taken:
        assert model.get_parameter(next(name for name in names.values() if name.endswith(end))).ndim == 2
        assert not any(name.endswith(end) for name in held)


def test_routers_and_the_factors_of_adapters_are_hidden_matrices_and_experts_are_not() -> None:
    model = build_model(PRESETS["nano-moe"], 40, seed=0)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = build_optimizers(model, optimizer="muon", **SETTINGS)  # type: ignore[arg-type]
    held, rest = ([names[id(p)] for p in each.param_groups[0]["params"]] for each in (muon, adamw))
    assert any(name.endswith("mlp.gate.weight") for name in held)
    assert [name for name in rest if model.get_parameter(name).ndim > 1 and ".layers." in name] == [
        name for name in names.values() if ".experts." in name
    ]
    for kind in ("lora", "osf"):
        adapted = add_adapter(make_llama(40), AdapterConfig(adapter=kind), base="", seed=0)  # type: ignore[arg-type]
        factors = [p for p in adapted.parameters() if p.requires_grad and p.ndim == 2]
        (muon, *_) = build_optimizers(adapted, optimizer="muon", **SETTINGS)  # type: ignore[arg-type]
        found = muon.param_groups[0]["params"]
        assert len(factors) > 20
        assert [id(p) for p in found] == [id(p) for p in factors]
