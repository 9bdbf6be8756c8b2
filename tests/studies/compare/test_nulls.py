"""Null models change as much as a fine-tuning does, in the same places, and teach nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from ftmech_hf.analysis.output_difference import compare_outputs
from ftmech_hf.models.small import small_model
from ftmech_hf.models.stored import as_stored_in, stored_tensors
from ftmech_hf.studies.compare.nulls import _moved, _scale, null_models
from tests.conftest import make_gpt2, make_llama

VOCABULARY = 24


@pytest.fixture
def base() -> PreTrainedModel:
    return make_gpt2(VOCABULARY)


@pytest.fixture
def rows() -> Tensor:
    return torch.randint(3, VOCABULARY, (64, 12), generator=torch.Generator().manual_seed(0))


def taught(base: PreTrainedModel, size: float = 0.05) -> PreTrainedModel:
    """A copy whose first MLP changed, and nothing else."""
    model = copy.deepcopy(base)
    weight = model.transformer.h[0].mlp.c_fc.weight
    with torch.no_grad():
        weight += size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    return model


def changes(base: PreTrainedModel, model: PreTrainedModel) -> dict[str, float]:
    after = dict(model.named_parameters())
    return {name: float((after[name] - each).detach().norm()) for name, each in base.named_parameters()}


def test_every_parameter_changes_as_much_as_in_the_fine_tuned_model(base: PreTrainedModel, rows: Tensor) -> None:
    model = taught(base)
    (made,) = null_models(base, model, rows, torch.ones_like(rows).bool(), number=1, seed=0, steps=3, batch_size=8)
    expected, found = changes(base, model), changes(base, made)
    assert {name for name, size in found.items() if size} == {"transformer.h.0.mlp.c_fc.weight"}
    for name, size in expected.items():
        assert found[name] == pytest.approx(size, rel=1e-4, abs=1e-6)
    one, other = (dict(each.named_parameters())["transformer.h.0.mlp.c_fc.weight"] for each in (model, made))
    start = base.transformer.h[0].mlp.c_fc.weight
    assert torch.cosine_similarity((one - start).flatten(), (other - start).flatten(), dim=0).abs() < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_buffer_by_which_a_router_chooses_moves_as_far_too(dtype: torch.dtype) -> None:
    base = small_model("deepseek_v3").to(dtype)
    name = next(each for each in stored_tensors(base) if each.endswith("e_score_correction_bias"))
    model = copy.deepcopy(base)
    with torch.no_grad():
        stored_tensors(model)[name] += torch.tensor([1.0, -1.0] * (len(stored_tensors(model)[name]) // 2)).to(dtype)
    rows = torch.randint(3, 20, (16, 8), generator=torch.Generator().manual_seed(0))
    made = list(null_models(base, model, rows, torch.ones_like(rows).bool(), number=2, seed=0, steps=2, batch_size=8))
    start, after = stored_tensors(base), [stored_tensors(each) for each in made]
    size = float((stored_tensors(model)[name].float() - start[name].float()).norm())
    for each in after:
        assert {key for key in start if not torch.equal(each[key], start[key])} == {name}
        assert float((each[name].float() - start[name].float()).norm()) == pytest.approx(size, rel=0.05)
    assert not torch.equal(after[0][name], after[1][name])


def test_in_sixteen_bits_they_are_finite_and_change_as_much_where_norms_changed(
    base: PreTrainedModel, rows: Tensor
) -> None:
    """A step too small for a weight near one is lost in bfloat16, and would ask for an endless rate."""
    half = copy.deepcopy(base).bfloat16()
    model = copy.deepcopy(half)
    with torch.no_grad():
        for each in model.parameters():
            each.mul_(1 + 2**-6)
    (made,) = null_models(half, model, rows, torch.ones_like(rows).bool(), number=1, seed=0, steps=3, batch_size=8)
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    expected, found = changes(half.float(), model.float()), changes(half, made.float())
    for name, size in expected.items():
        assert math.isfinite(found[name])
        if size:
            assert found[name] == pytest.approx(size, rel=0.5), name


@pytest.mark.parametrize("share", [2.8e-5, 8e-4, 3e-3])
def test_in_sixteen_bits_they_have_the_size_after_rounding(share: float) -> None:
    """Of the norm of a matrix: most steps are below half a unit in a weight's last place, or a few of them."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=4, n_embd=128, vocab_size=128, n_positions=8)).bfloat16()
    model, made = copy.deepcopy(base), copy.deepcopy(base).float()
    with torch.no_grad():
        for number, (each, other) in enumerate(zip(model.parameters(), made.parameters(), strict=True)):
            generator = torch.Generator().manual_seed(number)
            size = each.float().square().mean().sqrt()
            each.copy_(each.float() + share * size * torch.randn(each.shape, generator=generator))
            other += 0.1 * share * size * torch.randn(each.shape, generator=generator)
    expected = changes(copy.deepcopy(base).float(), copy.deepcopy(model).float())
    _scale(made, base, expected)
    found = changes(copy.deepcopy(base).float(), made.bfloat16().float())
    matrices = {name: expected[name] for name, each in base.named_parameters() if each.numel() > 10_000}
    assert len(matrices) == 5
    assert all(matrices.values())
    for name, size in matrices.items():
        assert found[name] == pytest.approx(size, rel=0.03), name
    assert all(math.isfinite(each) for each in found.values())


def test_in_float32_the_change_is_scaled_and_nothing_else(base: PreTrainedModel) -> None:
    model, made = taught(base), copy.deepcopy(base)
    with torch.no_grad():
        for number, each in enumerate(made.parameters()):
            each += 0.02 * torch.randn(each.shape, generator=torch.Generator().manual_seed(number))
    sizes, start = changes(base, model), dict(base.named_parameters())
    moved = changes(base, made)
    expected = {
        name: start[name] + (each - start[name]) * (sizes[name] / moved[name]) for name, each in made.named_parameters()
    }
    _scale(made, base, sizes)
    assert all(torch.equal(each, expected[name]) for name, each in made.named_parameters())


def test_frequencies_stay_in_the_types_that_the_base_has_them_in(rows: Tensor) -> None:
    base = as_stored_in(torch.bfloat16, make_llama(VOCABULARY))
    model = copy.deepcopy(base)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    (made,) = null_models(base, model, rows, torch.ones_like(rows).bool(), number=1, seed=0, steps=2, batch_size=8)
    assert {each.dtype for each in made.parameters()} == {torch.bfloat16}
    buffers = dict(made.named_buffers())
    assert base.model.rotary_emb.inv_freq.dtype == torch.float32
    for name, each in base.named_buffers():
        assert buffers[name].dtype == each.dtype
        assert torch.equal(buffers[name], each)


def test_a_seed_gives_one_model_and_the_base_stays(base: PreTrainedModel, rows: Tensor) -> None:
    before = copy.deepcopy(base.state_dict())
    mask = torch.ones_like(rows).bool()
    first, again, other = (
        next(null_models(base, taught(base), rows, mask, number=1, seed=seed, steps=2, batch_size=8)).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert not base.training


def test_it_is_taught_what_the_base_says_and_not_what_the_texts_say(base: PreTrainedModel, rows: Tensor) -> None:
    """Trained on the texts, a model would come to expect them; all of these rows say the same."""
    same = rows[:1].expand(64, -1).contiguous()
    mask = torch.ones_like(same).bool()
    model = copy.deepcopy(base)
    with torch.no_grad():  # a change of everything, so that nothing is held back
        for number, each in enumerate(model.parameters()):
            each += 0.02 * torch.randn(each.shape, generator=torch.Generator().manual_seed(number))
    (made,) = null_models(base, model, same, mask, number=1, seed=0, steps=30, batch_size=32)
    learned = copy.deepcopy(base)
    optimizer = torch.optim.AdamW(learned.parameters(), lr=1e-4)
    for _ in range(30):
        learned(same[:32], labels=same[:32]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    _scale(learned, base, changes(base, model))
    found = compare_outputs(base, {"made": made, "learned": learned}, same, mask)
    gains = {name: each.summary()["gain"] for name, each in found.items()}  # nats per token
    assert gains["made"] < 0.05
    assert gains["learned"] > 0.2, "the same change of weights, taught"


def test_nothing_changes_where_nothing_was_changed(base: PreTrainedModel, rows: Tensor) -> None:
    (made,) = null_models(base, base, rows, torch.ones_like(rows).bool(), number=1, seed=0, steps=2, batch_size=8)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in base.state_dict().items())


def test_training_itself_carries_it_as_far_and_nothing_is_made_longer_by_hand(
    base: PreTrainedModel, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pulled back moves less far than noise alone would: half of the way without a rehearsal."""
    model = copy.deepcopy(base)
    with torch.no_grad():
        for number, each in enumerate(model.parameters()):
            each += (
                0.1 * each.std().nan_to_num() * torch.randn(each.shape, generator=torch.Generator().manual_seed(number))
            )
    reached = list[float]()

    def look(made: PreTrainedModel, base: PreTrainedModel, sizes: dict[str, float]) -> None:
        moved = _moved(base, made)
        reached.extend(moved[name] / size for name, size in sizes.items() if size)

    monkeypatch.setattr("ftmech_hf.studies.compare.nulls._scale", look)
    mask = torch.ones_like(rows).bool()
    for _ in null_models(base, model, rows, mask, number=2, seed=0, steps=90, batch_size=16):
        pass
    low, middle, high = (sorted(reached)[int(share * len(reached))] for share in (0.1, 0.5, 0.9))
    assert 0.75 < low < middle < high < 1.3


def test_each_of_several_is_another_one(base: PreTrainedModel, rows: Tensor) -> None:
    mask = torch.ones_like(rows).bool()
    first, second = null_models(base, taught(base), rows, mask, number=2, seed=0, steps=2, batch_size=8)
    (alone,) = null_models(base, taught(base), rows, mask, number=1, seed=0, steps=2, batch_size=8)
    assert any(not torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in first.state_dict().items())
