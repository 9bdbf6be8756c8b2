"""The smallest part of a change is found where it was planted; turned at random it restores nothing."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel

from ftmech_hf.activations import block_matrices
from ftmech_hf.analysis.intruders import find_intruders
from ftmech_hf.analysis.restoring import (
    ALL,
    EVERYTHING,
    Part,
    WeightChange,
    find_places,
    find_restoring,
    numbers_of_directions,
    replaced,
)
from tests.conftest import make_gpt2
from tests.simulated_gpu import simulated_gpu

ROWS = torch.randint(3, 40, (64, 8), generator=torch.Generator().manual_seed(0))


def answers(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(ROWS).logits[:, -1].argmax(-1)


def names_of(model: PreTrainedModel) -> dict[str, list[str]]:
    """Each part of each block, and everything."""
    places = {
        f"{part} of block {layer}": [name for name, _ in model.named_parameters() if f"h.{layer}.{part}." in name]
        for layer in range(2) for part in ("attn", "mlp")
    }  # fmt: skip
    return {**places, "everything": [name for name, _ in model.named_parameters()]}


def wrapped(base: PreTrainedModel, layer: int, rank: int) -> PreTrainedModel:
    """Another answer to everything, by a change of some rank in one matrix, and a little noise in all others."""
    model, generator = copy.deepcopy(base), torch.Generator().manual_seed(layer)
    with torch.no_grad():
        for each in model.parameters():
            each += 1e-4 * torch.randn(each.shape, generator=generator)
        weight = model.transformer.h[layer].mlp.c_proj.weight  # (inputs, outputs)
        with torch.no_grad():
            streams = model(ROWS, output_hidden_states=True).hidden_states[layer][:, -1]
        inputs = torch.linalg.qr(torch.randn(weight.shape[0], rank, generator=generator)).Q
        outputs = torch.linalg.qr(torch.randn(weight.shape[1], rank, generator=generator)).Q
        weight += 40.0 * streams.norm(dim=-1).mean() * inputs @ outputs.T
    return model


@pytest.mark.parametrize(("layer", "rank"), [(0, 1), (1, 1), (1, 2)])
def test_the_planted_place_and_rank_are_found_and_a_random_edit_restores_nothing(layer: int, rank: int) -> None:
    base = make_gpt2(40)
    model = wrapped(base, layer, rank)
    right = answers(base)

    def score(each: PreTrainedModel) -> float:
        return float((answers(each) == right).double().mean())

    assert score(model) < 0.5
    before = copy.deepcopy(model.state_dict())
    change = WeightChange(base, model, names_of(base))
    found = find_restoring(model, change, score, enough=0.9)
    assert found.smallest is not None
    assert found.smallest.part == Part(f"mlp of block {layer}", rank)
    assert found.smallest.size > 0.9, "the noise is small beside it"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    lead = score(base) - score(model)
    for seed in range(3):
        with replaced(model, change.without(found.smallest.part, seed=seed)):
            by_chance = score(model)
        assert by_chance - score(model) < 0.5 * lead
    with replaced(base, change.only(found.smallest.part)):
        assert score(base) < 0.5, "the base with this part alone answers as the fine-tuned model"
    assert found.summary() == {"place": f"mlp of block {layer}", "directions": rank, "size": found.smallest.size}


def test_where_nothing_can_restore_nothing_is_found() -> None:
    """A model that never had the ability: no part of its change brings back what its base does not know."""
    base, other = make_gpt2(40), make_gpt2(40, seed=3)
    right = (answers(base) + 1) % 40
    change = WeightChange(base, other, names_of(base))
    found = find_restoring(other, change, lambda each: float((answers(each) == right).double().mean()), enough=0.9)
    assert found.smallest is None
    assert found.summary() == {"place": None, "directions": None, "size": None}
    assert {row["directions"] for row in found.rows()} == {ALL}
    assert len(found.rows()) == len(change.places)


def test_a_part_is_the_nearest_change_of_its_rank() -> None:
    base = make_gpt2(40)
    model = wrapped(base, 1, 2)
    change = WeightChange(base, model, names_of(base))
    name = "transformer.h.1.mlp.c_proj.weight"
    before, after = (dict(each.named_parameters())[name].detach() for each in (base, model))
    left, values, right = torch.linalg.svd((after - before).double())
    nearest = (left[:, :1] * values[:1] @ right[:1]).float()
    assert torch.allclose(change.without(Part("mlp of block 1", 1))[name], after - nearest, atol=1e-5)
    assert torch.allclose(change.only(Part("mlp of block 1", 1))[name], before + nearest, atol=1e-5)
    everything = change.without(Part("everything", ALL))
    assert all(torch.allclose(everything[each], was, atol=1e-6) for each, was in base.named_parameters())
    assert change.size(Part("everything", ALL)) == pytest.approx(1.0)
    turned = change.without(Part("mlp of block 1", 1), seed=0)[name] - after
    assert torch.linalg.svdvals(turned)[:2].tolist() == pytest.approx([float(values[0]), 0.0], rel=1e-4, abs=1e-4)


def test_in_sixteen_bits_an_edit_is_rounded_once_and_as_large_as_what_is_left_of_it() -> None:
    base = make_gpt2(40).bfloat16()
    model, generator = copy.deepcopy(base), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in model.parameters():
            each += 2e-4 * torch.randn(each.shape, generator=generator).bfloat16()
    change, part = WeightChange(base, model, names_of(base)), Part("mlp of block 1", 1)
    name = "transformer.h.1.mlp.c_proj.weight"
    before, after = (dict(each.named_parameters())[name].detach().double() for each in (base, model))
    left, values, right = torch.linalg.svd(after - before)
    nearest = left[:, :1] * values[:1] @ right[:1]
    taken = change.without(part)[name]
    assert taken.dtype == torch.bfloat16
    assert (taken == (after - nearest).bfloat16()).double().mean() > 0.99
    assert (change.only(part)[name] == (before + nearest).bfloat16()).double().mean() > 0.99

    def squares(weights: dict[str, Tensor]) -> float:
        after = model.state_dict()
        return sum(float((after[each].double() - value.double()).square().sum()) for each, value in weights.items())

    whole = squares({each: base.state_dict()[each] for each, _ in base.named_parameters()})
    assert change.size(part) == pytest.approx(squares(change.without(part)) / whole, rel=1e-4)
    assert change.size(Part("everything", ALL)) == pytest.approx(1)
    edit = nearest.square().sum() / whole
    assert abs(change.size(part) - edit) > 0.1 * edit, "so coarse are these weights"


def test_of_a_change_no_more_than_two_weights_are_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned, made = make_gpt2(40, seed=0), make_gpt2(40, seed=1), list[weakref.ref[Tensor]]()
    taken, most = WeightChange._delta, 0

    def delta(self: WeightChange, name: str) -> Tensor:
        nonlocal most
        found = taken(self, name)
        made.append(weakref.ref(found))
        most = max(most, sum(each() is not None for each in made))
        return found

    monkeypatch.setattr(WeightChange, "_delta", delta)
    change = WeightChange(base, tuned, names_of(tuned))
    assert change.size(Part("everything", ALL)) == 1
    assert len(made) > 20
    assert most == 2


def test_what_did_not_change_is_no_place() -> None:
    base = make_gpt2(40)
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.bias += 1.0
    change = WeightChange(base, model, names_of(base))
    assert set(change.places) == {"mlp of block 0", "everything"}
    assert change.rank("everything") == 0
    assert change.size(Part("everything", 1)) == 0.0, "a vector has no directions"


def test_numbers_of_directions_double_up_to_the_rank() -> None:
    assert [numbers_of_directions(rank) for rank in (0, 1, 2, 7, 8)] == [[], [1], [1, 2], [1, 2, 4], [1, 2, 4, 8]]


def test_every_expert_has_directions_of_its_own() -> None:
    """A change of rank one in each of four experts is whole with one direction; so none is a vector."""
    config = MixtralConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    base = MixtralForCausalLM(config).eval()
    tuned = copy.deepcopy(base)
    name = next(name for name, each in tuned.named_parameters() if each.ndim == 3)
    with torch.no_grad():
        weight = dict(tuned.named_parameters())[name]
        weight += torch.randn(4, weight.shape[1], 1) @ torch.randn(4, 1, weight.shape[2])
    change = WeightChange(base, tuned, find_places(tuned))
    assert change.rank(EVERYTHING) == 1
    assert change.size(Part(EVERYTHING, 1)) == pytest.approx(1)
    back = change.without(Part(EVERYTHING, 1))[name]
    torch.testing.assert_close(back, dict(base.named_parameters())[name], rtol=0, atol=1e-5)
    by_chance = change.without(Part(EVERYTHING, 1), seed=0)[name]
    assert not torch.allclose(by_chance, back, atol=1e-2)
    # turned at random, each expert's change stays in it: another one takes other tokens
    with torch.no_grad():
        weight[1:] = dict(base.named_parameters())[name][1:]
    alone = WeightChange(base, tuned, find_places(tuned))
    for seed in range(4):
        edit = weight.detach() - alone.without(Part(EVERYTHING, ALL), seed=seed)[name]
        sizes = edit.flatten(1).norm(dim=1)
        assert sizes[0] == pytest.approx((weight - dict(base.named_parameters())[name]).norm().item(), rel=1e-3)
        assert sizes[1:].max() < 1e-4
    weights, axes = block_matrices(tuned)
    inside = sum(each.numel() for each in weights.values())
    whole = sum(each.numel() for each in tuned.model.layers.parameters() if each.ndim > 1)
    assert inside == whole
    assert axes[name] == 0


def test_a_base_elsewhere_is_brought_to_the_model_that_is_edited() -> None:
    base, tuned = make_gpt2(40), make_gpt2(40, seed=1)
    here = WeightChange(base, tuned, names_of(tuned))
    with simulated_gpu():
        there = WeightChange(base, copy.deepcopy(tuned).to("gpu"), names_of(tuned))
        part = Part("mlp of block 1", 1)
        moved, edit = here.without(part), there.without(part)
        assert {each.device.type for each in edit.values()} == {"gpu"}
        assert all(torch.equal(edit[name].cpu(), moved[name]) for name in moved)
        intruders = find_intruders({"": base.lm_head.weight}, [{"": tuned.lm_head.weight.to("gpu")}])
    (right,) = find_intruders({"": base.lm_head.weight}, [{"": tuned.lm_head.weight}])
    assert [each.cosine for each in intruders[0].matrices[""]] == [each.cosine for each in right.matrices[""]] != []
