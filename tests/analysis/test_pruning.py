from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import find_layout, model_blocks
from ftmech_hf.analysis.pruning import (
    Mask,
    neuron_matrices,
    prune_sweep,
    pruned_rows,
    random_mask,
    row_importance,
    top_mask,
)
from ftmech_hf.training.objectives import answer_accuracy, answer_only_loss


@pytest.fixture
def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(3, 40, (16, 12))


def test_all_matrices_of_the_blocks_and_no_others_take_part(any_model: PreTrainedModel) -> None:
    matrices = neuron_matrices(model_blocks(any_model))
    expected = {
        name.removesuffix(".weight")
        for name, p in any_model.named_parameters()
        if p.ndim == 2 and (".h." in name or ".layers." in name)
    }
    assert set(matrices) == expected
    for name, (weight, axis) in matrices.items():
        module = any_model.get_submodule(name)
        width = weight.shape[1 - axis]
        assert module(torch.randn(1, 1, width)).shape[-1] == weight.shape[axis]


def test_importance_is_the_slope_of_the_loss_along_each_row(any_model: PreTrainedModel, rows: Tensor) -> None:
    matrices = neuron_matrices(model_blocks(any_model))
    importance = row_importance(matrices, lambda: answer_only_loss(any_model, rows))
    step = 1e-2
    checked = 0.0
    for name, (weight, axis) in matrices.items():
        neuron = int(importance[name].abs().argmax())
        row = weight.select(axis, neuron)
        original = row.detach().clone()
        losses = []
        for factor in (1 + step, 1 - step):
            with torch.no_grad():
                row.copy_(original * factor)
                losses.append(float(answer_only_loss(any_model, rows)))
                row.copy_(original)
        slope = (losses[0] - losses[1]) / (2 * step)
        assert slope == pytest.approx(float(importance[name][neuron]), rel=0.05, abs=2e-4)
        checked = max(checked, abs(slope))
        assert importance[name].shape == (weight.shape[axis],)
    assert checked > 1e-2


def test_pruned_rows_output_only_their_bias_and_come_back(any_model: PreTrainedModel, rows: Tensor) -> None:
    matrices = neuron_matrices(model_blocks(any_model))
    before = {name: weight.detach().clone() for name, (weight, _) in matrices.items()}
    mask: Mask = {name: torch.rand(weight.shape[axis]) > 0.3 for name, (weight, axis) in matrices.items()}

    def fail_inside() -> None:
        with pruned_rows(matrices, mask):
            for name, (weight, axis) in matrices.items():
                module = any_model.get_submodule(name)
                output = module(torch.randn(1, 1, weight.shape[1 - axis]))[0, 0]
                bias = module.bias if module.bias is not None else torch.zeros_like(output)
                assert torch.equal(output[~mask[name]], bias[~mask[name]])
                assert (output[mask[name]] != bias[mask[name]]).all()
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert all(torch.equal(before[name], weight) for name, (weight, _) in matrices.items())


def test_a_wrapper_added_by_hand_is_found_and_removed(any_model: PreTrainedModel, rows: Tensor) -> None:
    """Three rows of the last MLP matrix are made to push the answer aside; their neighbours are not."""
    rows[:, -2] = 7
    matrices = neuron_matrices(model_blocks(any_model))
    layout = find_layout(any_model)
    name = f"{layout.blocks}.1.{layout.mlp_down}"
    head = any_model.get_output_embeddings().weight
    with torch.no_grad():
        # answer 7 is read off where the planted rows write nothing, answer 8 off the planted rows
        head.zero_()
        head[7, 0] = 1.0
        head[8, 3:6] = 1.0
        any_model.get_input_embeddings().weight[:, 0] = 3.0
        weight, axis = matrices[name]
        for other, (writes, _) in matrices.items():
            if other.endswith(("c_proj", "o_proj", "down_proj", "attention.dense", "4h_to_h")):
                writes.mul_(0.01)
        activations = {}
        handle = any_model.get_submodule(name).register_forward_pre_hook(lambda _, args: activations.update(x=args[0]))
        any_model(rows[:, :-2])
        handle.remove()
        direction = activations["x"][:, -1].mean(0)
        for neuron in (3, 4, 5):
            # spread over all inputs, so that no neuron upstream carries as much as a planted row
            weight.select(axis, neuron).copy_(3 * direction.sign() / direction.abs().sum())
    assert answer_accuracy(any_model, rows) == 0
    importance = row_importance(matrices, lambda: answer_only_loss(any_model, rows))
    mask = top_mask(importance, 3)
    assert (~mask[name]).nonzero().flatten().tolist() == [3, 4, 5]
    with pruned_rows(matrices, mask):
        assert answer_accuracy(any_model, rows) == 1
    with pruned_rows(matrices, random_mask(importance, 3, np.random.default_rng(0))):
        assert answer_accuracy(any_model, rows) == 0
    assert answer_accuracy(any_model, rows) == 0


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
