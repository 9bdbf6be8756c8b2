"""Null models change as much as a fine-tuning does, in the same places, and teach nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.analysis.output_difference import compare_outputs
from ftmech_hf.studies.compare.nulls import _scale, null_model
from tests.conftest import make_gpt2

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
    made = null_model(base, model, rows, torch.ones_like(rows).bool(), seed=0, steps=3, batch_size=8)
    expected, found = changes(base, model), changes(base, made)
    assert {name for name, size in found.items() if size} == {"transformer.h.0.mlp.c_fc.weight"}
    for name, size in expected.items():
        assert found[name] == pytest.approx(size, rel=1e-4, abs=1e-6)
    one, other = (dict(each.named_parameters())["transformer.h.0.mlp.c_fc.weight"] for each in (model, made))
    start = base.transformer.h[0].mlp.c_fc.weight
    assert torch.cosine_similarity((one - start).flatten(), (other - start).flatten(), dim=0).abs() < 0.2


def test_a_seed_gives_one_model_and_the_base_stays(base: PreTrainedModel, rows: Tensor) -> None:
    before = copy.deepcopy(base.state_dict())
    mask = torch.ones_like(rows).bool()
    first, again, other = (
        null_model(base, taught(base), rows, mask, seed=seed, steps=2, batch_size=8).state_dict() for seed in (0, 0, 1)
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
    made = null_model(base, model, same, mask, seed=0, steps=30, batch_size=32)
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
    made = null_model(base, base, rows, torch.ones_like(rows).bool(), seed=0, steps=2, batch_size=8)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in base.state_dict().items())
