from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, Unit, Units, find_layout, find_units, intervene
from ftmech_hf.analysis.pruning import (
    Mask,
    gradient_importance,
    magnitude_importance,
    nested_masks,
    prune_sweep,
    prune_weights,
    pruned,
    random_importance,
    random_mask,
    top_mask,
)
from ftmech_hf.training.evaluation import answer_accuracy, answer_logits
from ftmech_hf.training.objectives import answer_only_loss


@pytest.fixture
def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 40, (16, 12))


def answers_loss(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    return lambda rows: answer_only_loss(model, rows)


UNITS: tuple[Unit, ...] = get_args(Unit)


@pytest.mark.parametrize("unit", UNITS)
def test_importance_is_the_slope_of_the_loss_along_each_unit(
    any_model: PreTrainedModel, rows: Tensor, unit: Unit
) -> None:
    units = find_units(any_model, unit)
    importance = gradient_importance(units, answers_loss(any_model), rows, batch_size=5)
    step = 1e-2
    checked = 0.0
    for name, group in units.items():
        assert importance[name].shape == (group.num_units,)
        chosen = importance[name].abs().argmax()
        weight = group.weight.detach().view(-1) if unit == "weight" else group.weight.detach()
        axis, places = 0 if unit == "weight" else group.axis, group.places(chosen[None]).flatten()
        original = weight.index_select(axis, places)
        losses = []
        for factor in (1 + step, 1 - step):
            weight.index_copy_(axis, places, original * factor)
            losses.append(float(answer_only_loss(any_model, rows).detach()))
        weight.index_copy_(axis, places, original)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert slope == pytest.approx(float(importance[name][chosen]), rel=0.05, abs=2e-4)
        checked = max(checked, abs(slope))
    assert checked > 1e-2


@pytest.mark.parametrize("frozen", ["all", "half"])
def test_frozen_weights_have_the_same_importance_and_stay_frozen(
    any_model: PreTrainedModel, rows: Tensor, frozen: str
) -> None:
    units = find_units(any_model, "row")
    expected = gradient_importance(units, answers_loss(any_model), rows)
    for number, weight in enumerate(any_model.parameters()):
        weight.requires_grad_(frozen == "half" and number % 2 == 0)
    required = [weight.requires_grad for weight in any_model.parameters()]
    with torch.no_grad():
        found = gradient_importance(units, answers_loss(any_model), rows)
    assert all(torch.allclose(found[name], values, atol=1e-6) for name, values in expected.items())
    assert max(float(values.abs().max()) for values in expected.values()) > 1e-2
    assert [weight.requires_grad for weight in any_model.parameters()] == required
    assert all(weight.grad is None for weight in any_model.parameters())


def test_no_two_gradients_are_there_at_the_same_time(any_model: PreTrainedModel, rows: Tensor) -> None:
    """Of a model of 135 million weights all of them would be half a gigabyte. What a caller has gathered stays."""
    units = find_units(any_model, "row")
    weights = {id(group.whole): group.whole for group in units.values()}.values()
    gathered = torch.full_like(next(iter(weights)), 3.0)
    next(iter(weights)).grad = gathered
    there: list[int] = []
    hooks = [
        each.register_post_accumulate_grad_hook(lambda _: there.append(sum(w.grad is not None for w in weights)))
        for each in weights
    ]
    found = gradient_importance(units, answers_loss(any_model), rows, batch_size=8)
    for hook in hooks:
        hook.remove()
    assert there == [1] * 2 * len(weights)  # of two batches
    assert next(iter(weights)).grad is gathered
    assert all(each.grad is None for each in list(weights)[1:])
    next(iter(weights)).grad = None
    loss = sum(answer_only_loss(any_model, part) / 2 for part in rows.split(8))
    gradients = torch.autograd.grad(loss, list(weights))
    for (name, group), gradient in zip(units.items(), gradients, strict=True):
        assert torch.allclose(found[name], group.sum_over(gradient * group.weight.detach()), atol=1e-6)


def test_it_is_gradient_times_activation(any_model: PreTrainedModel, rows: Tensor) -> None:
    """The derivative with respect to a mask over activations, at 1, which a hook applies."""
    traced = TracedModel(any_model)
    mask = torch.ones(2, traced.num_neurons, requires_grad=True)
    loss = F.cross_entropy(traced.masked_logits(rows[:, :-2], mask), rows[:, -2])
    (expected,) = torch.autograd.grad(loss, mask)
    importance = gradient_importance(find_units(any_model, "activation"), answers_loss(any_model), rows)
    assert torch.allclose(torch.stack(list(importance.values())), expected, atol=1e-5)
    assert expected.abs().max() > 1e-3
    heads = find_units(any_model, "head")
    gates = [torch.ones(group.num_units, requires_grad=True) for group in heads.values()]

    def gate(layer: int) -> Callable[[Tensor], Tensor]:
        return lambda value: value * gates[layer].repeat_interleave(heads[f"head.{layer}"].size)

    with intervene(any_model, {("head_out", layer): gate(layer) for layer in range(2)}):
        slopes = torch.autograd.grad(answer_only_loss(any_model, rows), gates)
    found = gradient_importance(heads, answers_loss(any_model), rows)
    assert torch.allclose(torch.stack(list(found.values())), torch.stack(slopes), atol=1e-5)


def test_a_mask_in_the_weights_is_a_mask_by_hooks(any_model: PreTrainedModel, rows: Tensor) -> None:
    """To the last bit: where shapes are the same, adding nothing is adding nothing."""
    clean = answer_logits(any_model, rows)
    for unit, site in (("activation", "mlp_act"), ("head", "head_out")):
        units = find_units(any_model, unit)  # type: ignore[arg-type]
        mask = random_mask(magnitude_importance(units), 3, np.random.default_rng(1))

        def keep(layer: int, units: Units = units, mask: Mask = mask) -> Callable[[Tensor], Tensor]:
            name, group = list(units.items())[layer]
            return lambda value: value * mask[name].repeat_interleave(group.size)

        with intervene(any_model, {(site, layer): keep(layer) for layer in range(2)}):
            hooked = answer_logits(any_model, rows)
        with pruned(units, mask):
            assert torch.equal(answer_logits(any_model, rows), hooked)
        assert (hooked - clean).abs().max() > 1e-3
        assert torch.equal(answer_logits(any_model, rows), clean)


@pytest.mark.parametrize("unit", UNITS)
def test_pruned_units_come_back_and_folded_ones_do_not(any_model: PreTrainedModel, rows: Tensor, unit: Unit) -> None:
    units = find_units(any_model, unit)
    before = {name: parameter.detach().clone() for name, parameter in any_model.named_parameters()}
    mask = random_mask(magnitude_importance(units), 4, np.random.default_rng(0))

    def fail_inside() -> Tensor:
        with pruned(units, mask):
            inside.append(answer_logits(any_model, rows))
            raise KeyError

    inside: list[Tensor] = []
    with pytest.raises(KeyError):
        fail_inside()
    assert all(torch.equal(before[name], parameter) for name, parameter in any_model.named_parameters())
    prune_weights(units, mask)
    assert torch.equal(answer_logits(any_model, rows), inside[0])
    zeros = sum(int(((parameter == 0) & (before[name] != 0)).sum()) for name, parameter in any_model.named_parameters())
    expected = {
        name: (1 if unit == "weight" else group.size * group.weight.shape[1 - group.axis])
        for name, group in units.items()
    }
    assert zeros == sum(expected[name] * int((~kept).sum()) for name, kept in mask.items())


def test_a_wrapper_of_three_neurons_is_found_and_removed(any_model: PreTrainedModel, rows: Tensor) -> None:
    """Three rows of the last MLP matrix are made to push the answer aside; their neighbours are not."""
    rows[:, -2] = 7
    units = find_units(any_model, "row")
    layout = find_layout(any_model)
    name = f"{layout.blocks}.1.{layout.layers[1].mlp_down}"
    head = any_model.get_output_embeddings().weight
    with torch.no_grad():
        # answer 7 is read off where the planted rows write nothing, answer 8 off the planted rows
        head.zero_()
        head[7, 0] = 1.0
        head[8, 3:6] = 1.0
        any_model.get_input_embeddings().weight[:, 0] = 3.0
        for other, group in units.items():
            if other.endswith(("c_proj", "o_proj", "down_proj", "attention.dense", "4h_to_h")):
                group.weight.mul_(0.01)
        activations = {}
        handle = any_model.get_submodule(name).register_forward_pre_hook(lambda _, args: activations.update(x=args[0]))
        any_model(rows[:, :-2])
        handle.remove()
        direction = activations["x"][:, -1].mean(0)
        assert answer_accuracy(any_model, rows) == 1
        for neuron in (3, 4, 5):
            # spread over all inputs, so that no neuron upstream carries as much as a planted row
            row = units[name].weight.select(units[name].axis, neuron)
            row.copy_(3 * direction.sign() / direction.abs().sum())
    assert answer_accuracy(any_model, rows) == 0
    importance = gradient_importance(units, answers_loss(any_model), rows)
    mask = top_mask(importance, 3)
    assert (~mask[name]).nonzero().flatten().tolist() == [3, 4, 5]
    with pruned(units, mask):
        assert answer_accuracy(any_model, rows) == 1
    for control in (
        random_mask(importance, 3, np.random.default_rng(0)),
        top_mask(magnitude_importance(units), 3),
        top_mask({name: -values for name, values in importance.items()}, 3),
    ):
        with pruned(units, control):
            assert answer_accuracy(any_model, rows) == 0
    assert answer_accuracy(any_model, rows) == 0


def test_magnitude_prunes_the_smallest_first(any_model: PreTrainedModel) -> None:
    units = find_units(any_model, "head")
    smallest = units["head.1"].weight.detach()
    smallest.index_fill_(units["head.1"].axis, units["head.1"].places(torch.tensor([1])).flatten(), 1e-6)
    mask = top_mask(magnitude_importance(units), 1)
    assert mask["head.0"].all()
    assert (~mask["head.1"]).nonzero().flatten().tolist() == [1]
    assert random_importance(units, np.random.default_rng(0)).keys() == units.keys()


def test_iterative_masks_grow_and_score_again() -> None:
    first = {"x": torch.tensor([5.0, 4.0, 3.0, 0.0])}
    asked: list[list[bool]] = []

    def rescore(mask: Mask) -> dict[str, Tensor]:
        asked.append(mask["x"].tolist())
        # without the first, the last matters most; the pruned one's own score is no longer asked for
        return {"x": torch.tensor([-9.0, 1.0, 2.0, 8.0])}

    masks = nested_masks(first, [0, 1, 3], rescore)
    assert asked == [[False, True, True, True]]
    assert masks[0]["x"].all()
    assert masks[3]["x"].tolist() == [False, True, False, False]
    assert nested_masks(first, [1, 3])[3]["x"].tolist() == [False, False, False, True]


def test_masks_prune_exactly_k_and_the_largest() -> None:
    importance = {"x": torch.tensor([3.0, -1.0, 2.0]), "y": torch.tensor([2.0, 9.0])}
    assert top_mask(importance, 0) == {"x": pytest.approx(torch.ones(3)), "y": pytest.approx(torch.ones(2))}
    mask = top_mask(importance, 3)
    assert mask["x"].tolist() == [False, True, False]  # of the two 2.0, the first
    assert mask["y"].tolist() == [True, False]
    drawn = [random_mask(importance, 2, np.random.default_rng(seed)) for seed in range(400)]
    pruned = torch.stack([torch.cat([~mask["x"], ~mask["y"]]) for mask in drawn]).float()
    assert (pruned.sum(1) == 2).all()
    assert (abs(pruned.mean(0) - 0.4) < 0.1).all()
    with pytest.raises(ValueError, match="num_pruned: 6, expected 0 to 5"):
        top_mask(importance, 6)


def test_the_sweep_chooses_on_validation_and_reports_the_test() -> None:
    importance = {"x": torch.arange(30.0)}
    validation = {0: 0.1, 1: 0.4, 5: 0.9, 10: 0.9, 20: 1.0}
    asked: list[tuple[int, tuple[str, ...]]] = []

    def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
        size = int((~mask["x"]).sum())
        asked.append((size, tuple(names)))
        return {name: validation[size] if name == "validation" else size / 100 for name in names}

    result = prune_sweep(
        importance, evaluate, unit="row", test_sets=["validation", "test"], control_sets=["test"],
        sizes=[0, 1, 5, 10, 20], max_best_k=15, chosen_on="validation", num_random=3, num_random_at_best=5, seed=0,
    )  # fmt: skip
    assert result.best_k == 5  # not 20, which is too many, nor 10, which is no better
    assert result.at_best("importance", "test") == 0.05
    assert result.pruned == [f"x[{number}]" for number in range(25, 30)]
    assert asked.count((5, ("test",))) == 5
    assert asked.count((1, ("test",))) == 3
    assert asked.count((0, ("test",))) == 0
    assert len(result.rows()) == 5 + 4 * 3 + 2
    with pytest.raises(ValueError, match=r"sizes: \[0, 20\], expected at least one from 1 to max_best_k: 15"):
        prune_sweep(
            importance, evaluate, unit="row", test_sets=["validation"], control_sets=[], sizes=[0, 20],
            max_best_k=15, chosen_on="validation", num_random=0, num_random_at_best=1, seed=0,
        )  # fmt: skip


def test_the_table_of_a_sweep_says_what_each_number_is() -> None:
    """The only K that may be chosen, scoring again, and random masks that a seed fixes."""
    importance = {"x": torch.tensor([3.0, 2.0, 1.0, 0.0])}
    masks: list[tuple[int, ...]] = []

    def evaluate(mask: Mask, names: Sequence[str]) -> dict[str, float]:
        gone = tuple((~mask["x"]).nonzero()[:, 0].tolist())
        masks.append(gone)
        return dict.fromkeys(names, 0.25 * len(gone))

    def sweep(sizes: Sequence[int], most: int, seed: int, *, again: bool = False) -> list[dict[str, object]]:
        masks.clear()
        result = prune_sweep(
            importance, evaluate, unit="head", test_sets=["validation"], control_sets=["test"], sizes=sizes,
            max_best_k=most, chosen_on="validation", num_random=2, num_random_at_best=0, seed=seed,
            rescore=(lambda mask: {"x": torch.tensor([0.0, 0.0, 0.0, 9.0])}) if again else None,
        )  # fmt: skip
        assert (~result.best_mask["x"]).nonzero()[:, 0].tolist() == list(range(result.best_k)) or again
        assert result.summary() == {
            "unit": "head", "best_k": result.best_k, "chosen_on": "validation", "pruned": result.pruned,
        }  # fmt: skip
        assert result.at_best("importance", "validation") == 0.25 * result.best_k
        assert result.at_best("random", "test") == 0.25 * result.best_k
        return result.rows()

    rows = sweep([1], 1, 0)
    assert rows[0] == {"unit": "head", "num_pruned": 1, "method": "importance", "draw": 0, "validation": 0.25}
    assert rows[1:] == [
        {"unit": "head", "num_pruned": 1, "method": "random", "draw": draw, "test": 0.25} for draw in (0, 1)
    ]
    drawn = list(masks)
    sweep([1], 1, 0)
    assert masks == drawn, "the same seed draws the same masks"
    other = []
    for seed in range(1, 6):
        sweep([1], 1, seed)
        other.append(list(masks))
    assert any(each != drawn for each in other)
    assert {row["num_pruned"] for row in sweep([0, 1, 2], 2, 0)} == {0, 1, 2}
    sweep([1, 2], 2, 0, again=True)
    assert (0, 3) in masks, "scored again, the second to go is the last unit"


def test_an_importance_that_is_no_number_prunes_nothing() -> None:
    with pytest.raises(ValueError, match="importance: 1 of 3 units have nan, expected numbers"):
        top_mask({"a": torch.tensor([1.0, math.nan, 3.0])}, 1)


def test_ties_go_to_the_first_however_many_there_are() -> None:
    importance = {"x": torch.zeros(3000), "y": torch.zeros(2000)}
    mask = top_mask(importance, 10)
    assert (~mask["x"]).nonzero()[:, 0].tolist() == list(range(10))
    assert bool(mask["y"].all())


def test_products_of_half_precision_are_not_rounded_again(any_model: PreTrainedModel, rows: Tensor) -> None:
    """Else a thousand units have a hundred importances, and the first of those that tie are pruned."""
    model = any_model.bfloat16()
    units = find_units(model, "weight")
    found = gradient_importance(units, answers_loss(model), rows)
    weights = list({id(group.whole): group.whole for group in units.values()}.values())
    grads = torch.autograd.grad(answers_loss(model)(rows), weights)
    slopes = {id(weight): grad.float() for weight, grad in zip(weights, grads, strict=True)}
    for name, group in units.items():
        right = group.sum_over(group.part(slopes[id(group.whole)]) * group.weight.detach().float())
        assert torch.equal(found[name], right), name
