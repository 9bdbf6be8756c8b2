from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations.patches import Part, one_token, patched_logits, record_activations
from ftmech_hf.analysis.attribution import PlacedUnit, attribute_patches, patch_units
from ftmech_hf.analysis.part_patching import patch_parts
from ftmech_hf.analysis.patching import patch_each
from tests.conftest import make_gpt2
from tests.studies.planted import make_base, make_rows, make_wrapped

SITES = ("mlp_act", "attn_out", "resid_post")


def changed(model: PreTrainedModel, size: float) -> PreTrainedModel:
    """A copy whose matrices are that much different, and so everything that it computes."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(size * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return other


def some_rows(number: int = 12) -> Tensor:
    return torch.randint(3, 40, (number, 12), generator=torch.Generator().manual_seed(1))


def test_a_small_change_has_the_effect_that_is_estimated(any_model: PreTrainedModel) -> None:
    """To first order there is nothing else: every place, and every neuron by itself."""
    donor, rows = changed(any_model.double(), 1e-4), some_rows()
    for parameter in any_model.parameters():
        parameter.requires_grad_(False)
    found = attribute_patches(donor, any_model, rows, sites=SITES, layers=[0, 1], batch_size=5)
    exact = patch_each(donor, any_model, rows, sites=SITES, layers=[0, 1], other_rows=0)
    for place, effect in found.of_places().items():
        change = exact.log_probability[place].astype(float) - exact.unpatched_log_probability
        assert effect == pytest.approx(change.mean(), rel=0.02, abs=1e-6)
        assert abs(effect) > 3e-6
    units = (PlacedUnit("mlp_act", 0, 3), PlacedUnit("mlp_act", 1, 5), PlacedUnit("attn_out", 1, 2))
    (_, alone), *each = patch_units(donor, any_model, rows, [[], *([unit] for unit in units)])
    for unit, (_, likely) in zip(units, each, strict=True):
        change = likely - alone
        estimate = found.effects[unit.site, unit.layer][:, unit.unit].numpy()
        np.testing.assert_allclose(estimate, change, atol=3e-6)
        assert np.abs(estimate).max() > 1e-5
    assert all(parameter.grad is None for parameter in any_model.parameters())


def test_answers_of_several_tokens_and_the_same_model(any_model: PreTrainedModel) -> None:
    rows, donor = some_rows(), changed(any_model, 1e-4)
    answer = one_token(rows)
    answer[::2, -3] = True
    more = attribute_patches(donor, any_model, rows, sites=["mlp_act"], layers=[1], answer=answer)
    one = attribute_patches(donor, any_model, rows, sites=["mlp_act"], layers=[1])
    assert torch.allclose(more.effects["mlp_act", 1][1::2], one.effects["mlp_act", 1][1::2], atol=1e-7)
    assert (more.effects["mlp_act", 1] - one.effects["mlp_act", 1])[::2].abs().max() > 1e-6
    same = attribute_patches(any_model, any_model, rows, sites=SITES, layers=[0, 1])
    assert all(not each.any() for each in same.effects.values())


def test_all_units_of_a_place_are_the_place(any_model: PreTrainedModel) -> None:
    donor, rows = changed(any_model, 0.5), some_rows()
    found = attribute_patches(donor, any_model, rows, sites=["mlp_act"], layers=[1])
    units = found.top_units(10**6)
    assert len(units) == found.effects["mlp_act", 1].shape[1] > 16
    ((right, likely),) = patch_units(donor, any_model, rows, [units], batch_size=5)
    exact = patch_each(donor, any_model, rows, sites=["mlp_act"], layers=[1], other_rows=0)
    assert np.array_equal(right, exact.right["mlp_act", 1])
    np.testing.assert_allclose(likely, exact.log_probability["mlp_act", 1], atol=1e-5)


def test_units_are_ranked_and_chosen_by_chance_among_all() -> None:
    model = make_gpt2(40)
    found = attribute_patches(changed(model, 0.1), model, make_rows(number=20), sites=["mlp_act"], layers=[0, 1])
    means = {PlacedUnit(site, layer, unit): float(each[:, unit].mean())
             for (site, layer), each in found.effects.items() for unit in range(each.shape[1])}  # fmt: skip
    assert found.top_units(5) == sorted(means, key=lambda unit: -means[unit])[:5]
    assert found.summary() == found.top_units(1)[0]._asdict()
    drawn = [found.random_units(5, np.random.default_rng(seed)) for seed in range(40)]
    assert {unit.layer for each in drawn for unit in each} == {0, 1}
    assert all(len(set(each)) == 5 for each in drawn)
    assert len({tuple(each) for each in drawn}) == 40


def test_on_a_trained_wrapper_it_ranks_neurons_as_exact_patching_does() -> None:
    """Other rows' answers do not rank them so: the control."""
    base, finetuned = make_base("llama"), make_wrapped("llama")
    rows = make_rows(seed=5, number=100)
    found = attribute_patches(base, finetuned, rows, sites=["mlp_act"], layers=[0, 1])
    units = found.top_units(10**6)[::3]
    alone, *each = (likely.mean() for _, likely in patch_units(base, finetuned, rows, [[], *([u] for u in units)]))
    exact = [float(likely - alone) for likely in each]
    estimated = [float(found.effects[unit.site, unit.layer][:, unit.unit].mean()) for unit in units]
    shuffled = rows.clone()
    shuffled[:, -2] = rows[:, -2].roll(1)
    wrong = attribute_patches(base, finetuned, shuffled, sites=["mlp_act"], layers=[0, 1])
    others = [float(wrong.effects[unit.site, unit.layer][:, unit.unit].mean()) for unit in units]
    assert spearmanr(exact, estimated).statistic > 0.9
    assert spearmanr(exact, others).statistic < 0.8


def test_effects_of_another_row_on_the_difference_of_two_logits(any_model: PreTrainedModel) -> None:
    """Of parts by position, as exact patching has them: a small step of the donor's way, times its inverse."""
    model, rows, others = any_model.double(), some_rows(), some_rows().roll(1, 0)
    own, other = (patched_logits(model, each, {})[:, -1].argmax(-1) for each in (rows, others))
    answered = torch.cat([rows[:, :-2], own[:, None], rows[:, -1:]], 1)
    found = attribute_patches(
        model, model, answered, sites=["mlp_act"], layers=[0, 1], other_ids=others, instead=other, batch_size=5
    )
    every, width = torch.arange(len(rows)), found.effects["mlp_act", 0].shape[1]
    theirs = record_activations(model, others[:, :-2], [("mlp_act", 0)])["mlp_act", 0]

    def margin(share: float, position: int) -> float:
        def write(value: Tensor) -> Tensor:
            moved = value.clone()
            moved[:, position] = torch.lerp(value[:, position], theirs[:, position], share)
            return moved

        logits = patched_logits(model, rows, {("mlp_act", 0): write})[:, -1].double()
        return float((logits[every, own] - logits[every, other]).mean())

    for position in (0, 4, 9):
        slope = (margin(1e-2, position) - margin(-1e-2, position)) / 2e-2
        assert found.of_part(Part("mlp_act", 0, 0, width, position)) == pytest.approx(slope, rel=0.02, abs=1e-4)
    by_position = found.by_position["mlp_act", 1]
    assert torch.allclose(by_position.sum(0), found.effects["mlp_act", 1].mean(0), atol=1e-6)
    logs = attribute_patches(model, model, answered, sites=["mlp_act"], layers=[1], other_ids=others)
    assert not torch.allclose(logs.by_position["mlp_act", 1], by_position, atol=1e-4)


def test_over_enough_steps_the_effects_of_all_units_are_the_exact_effect(any_model: PreTrainedModel) -> None:
    """Integrated gradients are complete; the gradient at one end is not."""
    model, rows, others = any_model.double(), some_rows(), some_rows().roll(1, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # it bends
    own, other = (patched_logits(model, each, {})[:, -1].argmax(-1) for each in (rows, others))
    answered = torch.cat([rows[:, :-2], own[:, None], rows[:, -1:]], 1)
    width = record_activations(model, rows[:, :-2], [("mlp_act", 1)])["mlp_act", 1].shape[-1]
    last = Part("mlp_act", 1, 0, width, 9)  # the last block's MLP at the last position is all that matters of it
    exact = patch_parts(model, rows, others, [last]).effect[last]
    ask = {"sites": ["mlp_act"], "layers": [1], "other_ids": others, "instead": other}
    many, none = (attribute_patches(model, model, answered, steps=steps, **ask) for steps in (64, 0))  # type: ignore[arg-type]
    assert many.of_part(last) == pytest.approx(-exact, rel=0.02, abs=0.01)
    assert float(many.effects["mlp_act", 1].sum(1).mean()) == pytest.approx(-exact, rel=0.02, abs=0.01)
    assert abs(none.of_part(last) + exact) > 2 * abs(many.of_part(last) + exact)


def test_another_answer_to_several_tokens_is_refused(any_model: PreTrainedModel) -> None:
    rows = some_rows()
    answer = one_token(rows)
    answer[:, -3] = True
    with pytest.raises(ValueError, match="instead: is one token, but answers have several"):
        attribute_patches(any_model, any_model, rows, sites=["mlp_act"], layers=[1], answer=answer, instead=rows[:, 0])
