from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ftmech_hf.activations import find_layout, find_units, model_blocks
from ftmech_hf.analysis import weights
from ftmech_hf.analysis.weights import (
    action_on,
    effective_rank,
    main_directions,
    matrix_change,
    rounding_size,
    weight_change,
)
from ftmech_hf.models import directions


def test_the_effective_rank_counts_equal_singular_values_and_is_below_the_rank() -> None:
    assert effective_rank(torch.tensor([2.0, 2, 2, 0])) == pytest.approx(3)
    assert effective_rank(torch.tensor([5.0, 0, 0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(3)) == 0
    values = np.array([4.0, 2, 1])
    shares = values / values.sum()
    assert effective_rank(torch.from_numpy(values)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_main_directions_hold_the_energy_and_one_less_do_not() -> None:
    values = torch.tensor([3.0, 2, 1, 1])
    assert main_directions(values, 9 / 15) == 1
    assert main_directions(values, 10 / 15) == 2
    assert main_directions(values, 1.0) == 4


def test_a_low_rank_update_has_at_most_its_rank() -> None:
    torch.manual_seed(0)
    before = torch.randn(40, 30)
    update = torch.randn(40, 4) @ torch.randn(4, 30) * 0.1
    change = matrix_change(before, before + update, seed=0)
    assert 3 < change.effective_rank <= 4 + 1e-3
    assert change.random_rank > 20
    assert change.relative_norm == pytest.approx(float(update.norm() / before.norm()), rel=1e-4)
    expected = np.linalg.svd(update.numpy(), compute_uv=False) / np.linalg.norm(before.numpy())
    np.testing.assert_allclose(change.spectrum[:4], expected[:4], rtol=1e-3)
    assert float(change.random_spectrum.norm()) == pytest.approx(change.relative_norm, rel=1e-4)


def test_where_it_points_is_seen_by_construction_and_at_chance_for_a_random_matrix() -> None:
    torch.manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(60, 60))
    rows, _ = torch.linalg.qr(torch.randn(50, 20))
    # writes into 20 of 60 dimensions, and three times as much into the first five
    before = basis[:, :20] @ torch.diag(torch.tensor([3.0] * 5 + [1.0] * 15)) @ rows.T
    inside = matrix_change(before, before + basis[:, :5] @ torch.randn(5, 50), seed=0)
    outside = matrix_change(before, before + basis[:, 40:45] @ torch.randn(5, 50), seed=0)
    assert outside.outside == pytest.approx(1, abs=1e-4)
    assert inside.outside == pytest.approx(0, abs=1e-4)
    assert inside.random_outside == 1 - 14 / 60  # 14 directions hold nine tenths of the energy
    drawn = [matrix_change(before, before + torch.randn(60, 50), seed=0).outside for _ in range(5)]
    assert np.mean(drawn) == pytest.approx(inside.random_outside, abs=0.05)


def test_what_was_nothing_has_no_size_to_which_its_change_is_compared() -> None:
    torch.manual_seed(0)
    before = {"new": torch.zeros(6, 4), "old": torch.randn(6, 4), "bias": torch.zeros(4), "same": torch.zeros(4)}
    after = {"new": torch.randn(6, 4), "old": before["old"] * 1.1, "bias": torch.ones(4), "same": torch.zeros(4)}
    found = weight_change(before, after, {"new": False, "old": False})
    assert math.isnan(found.matrices["new"].relative_norm)
    assert math.isnan(found.vectors["bias"])
    assert found.vectors["same"] == 0
    told = found.summary()
    assert (told["most_changed"], told["changed"], told["parameters"]) == ("old", 2, 3)
    assert told["relative_norm"] == told["largest"] == pytest.approx(0.1, rel=1e-4)


def test_the_largest_share_is_that_of_its_square() -> None:
    before, delta = torch.eye(4), torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    assert matrix_change(before, before + delta, seed=0).largest_share == pytest.approx(9 / 14)


def test_no_change_is_none() -> None:
    weight = torch.randn(8, 6)
    change = matrix_change(weight, weight.clone(), seed=0)
    assert (change.relative_norm, change.effective_rank, change.outside) == (0, 0, 0)
    assert not change.spectrum.any()
    result = weight_change({"w": weight, "b": torch.ones(3)}, {"w": weight, "b": torch.ones(3)}, {"w": False})
    assert result.summary() == {"parameters": 0, "changed": 0, "most_changed": None}
    assert result.vectors == {"b": 0}


def test_a_change_of_one_matrix_is_found_in_it_alone(any_model: PreTrainedModel) -> None:
    units = find_units(any_model, "row")
    layout = find_layout(any_model)
    name = f"{layout.blocks}.1.{layout.layers[1].mlp_down}"
    changed = copy.deepcopy(any_model)
    with torch.no_grad():
        # one neuron's output: a row, which GPT-2 keeps as a column
        group = find_units(changed, "row")[name]
        group.weight.select(group.axis, 2).add_(1.0)
    transposed = {f"{each}.weight": group.axis == 1 for each, group in units.items()}
    result = weight_change(dict(any_model.named_parameters()), dict(changed.named_parameters()), transposed)
    assert {key for key, change in result.matrices.items() if change.relative_norm > 0} == {f"{name}.weight"}
    assert result.matrices[f"{name}.weight"].effective_rank == pytest.approx(1, abs=1e-3)
    assert result.summary()["most_changed"] == f"{name}.weight"
    assert not any(result.vectors.values())
    assert len(result.rows()) == len(units)
    one = dict(any_model.named_parameters())
    with pytest.raises(ValueError, match="other names or shapes"):
        weight_change(one, {**one, "more": torch.ones(2)}, transposed)


def test_the_action_is_the_sigma_weighted_projection(any_model: PreTrainedModel) -> None:
    torch.manual_seed(0)
    delta, weight, entered = torch.randn(9, 6), torch.randn(9, 6), torch.randn(5, 6)
    _, values, right = torch.linalg.svd(delta)
    projected = ((entered @ right.T) * values).norm(dim=-1)
    torch.testing.assert_close(action_on(delta, weight, entered), projected / (entered @ weight.T).norm(dim=-1))
    # and it is what the matrix of a model does
    layout = find_layout(any_model)
    down = model_blocks(any_model)[0][1].get_submodule(layout.layers[1].mlp_down)
    turned = down.weight.T if isinstance(down, Conv1D) else down.weight
    entered = torch.randn(3, turned.shape[1])
    torch.testing.assert_close(action_on(2 * turned.detach(), turned.detach(), entered), torch.full((3,), 2.0))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
@pytest.mark.parametrize("rank", [5, 60])
def test_large_matrices_are_decomposed_as_small_ones(
    shape: tuple[int, int], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values to 1e-6 of the largest, and the same main directions, whether the rank is low or full."""
    generator = torch.Generator().manual_seed(rank)
    one, other = (torch.randn(size, rank, dtype=torch.float64, generator=generator) for size in shape)
    matrix = (one * torch.logspace(0, -2, rank, dtype=torch.float64)) @ other.T
    exact, sizes, _ = torch.linalg.svd(matrix, full_matrices=False)
    monkeypatch.setattr(directions, "LARGE", 8)
    monkeypatch.setattr(directions, "LOW_RANK", 12)
    state = torch.random.get_rng_state()
    left, values = directions.decompose(matrix)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(values) == (12 if rank == 5 else 60)
    assert float((values - sizes[: len(values)]).abs().max()) <= 1e-6 * float(sizes[0])
    overlap = (exact[:, :5].T @ left[:, :5]).square().sum(0)
    assert torch.allclose(overlap, torch.ones(5, dtype=torch.float64), atol=1e-6)
    assert weights.effective_rank(values) == pytest.approx(weights.effective_rank(sizes), rel=1e-3)
    # a projection on too few directions is not taken for the whole
    monkeypatch.setattr(directions, "LOW_RANK", 3)
    assert float((directions.decompose(matrix)[1][:5] - sizes[:5]).abs().max()) <= 1e-6 * float(sizes[0])


def test_the_change_of_a_large_matrix_is_what_it_would_be_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(40, 70, generator=generator)
    after = before + 0.1 * torch.randn(40, 3, generator=generator) @ torch.randn(3, 70, generator=generator)
    exact = weights.matrix_change(before, after, seed=1)
    monkeypatch.setattr(directions, "LARGE", 8)
    found = weights.matrix_change(before, after, seed=1)
    for name in ("relative_norm", "effective_rank", "random_rank", "largest_share", "outside", "random_outside"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-4), name


def test_a_kernel_of_a_convolution_changes_as_the_matrix_that_it_applies() -> None:
    torch.manual_seed(0)
    before, delta = torch.randn(12, 3, 4), torch.randn(12, 1) @ torch.randn(1, 12) * 0.1
    found = weight_change({"conv.weight": before}, {"conv.weight": before + delta.view(12, 3, 4)},
                          {"conv.weight": False}).matrices["conv.weight"]  # fmt: skip
    assert found.effective_rank == pytest.approx(1, abs=1e-3)  # over places and inputs together; not so of one place
    assert found.relative_norm == pytest.approx(float(delta.norm() / before.norm()), rel=1e-5)
    assert len(found.spectrum) == 12


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(96, 96), (128, 48)])
def test_the_rank_of_a_change_is_not_that_of_how_it_is_stored(kind: torch.dtype, shape: tuple[int, int]) -> None:
    """A checkpoint in bfloat16 rounds every weight, which adds as many directions as there are."""
    rng = torch.Generator().manual_seed(3)

    def draw(*sides: int) -> Tensor:
        return torch.randn(*sides, generator=rng)

    base = (0.02 * draw(*shape)).bfloat16().float()
    planted, anywhere = draw(shape[0], 4) @ draw(4, shape[1]), draw(*shape)
    for delta in (planted, anywhere):
        delta *= 0.01 * base.norm() / delta.norm()
    stored = (base + planted).to(kind).float()
    exact = matrix_change(base.double(), base.double() + planted.double(), seed=0)
    assert matrix_change(base, stored, seed=0).effective_rank == pytest.approx(exact.effective_rank, rel=0.01)
    assert matrix_change(base, (base + anywhere).to(kind).float(), seed=0).effective_rank > 0.6 * min(shape)
    errors = stored.double() - base.double() - planted.double()
    assert 0.75 < float(torch.linalg.matrix_norm(errors, 2)) / rounding_size(stored) < 1


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("profile", ["alike", "a heavy row", "a heavy column", "rows", "rows and columns", "tiny"])
def test_rounding_is_no_direction_however_unlike_rows_and_columns_are(kind: torch.dtype, profile: str) -> None:
    """What rounding does to a weight is of the weight's size, so that heavy rows hold most of it."""
    rng = torch.Generator().manual_seed(0)
    for shape in ((256, 256), (64, 512), (512, 64)):
        weight = 0.02 * torch.randn(shape, generator=rng)
        rows, columns = (torch.randn(side, generator=rng).exp() for side in shape)
        first = [torch.where(torch.arange(side) == 0, 30.0, 1.0) for side in shape]
        weight *= {
            "alike": torch.tensor(1.0), "a heavy row": first[0][:, None], "a heavy column": first[1],
            "rows": rows[:, None], "rows and columns": rows[:, None] * columns,
            "tiny": torch.tensor(1e-5),  # of which float16 holds few bits
        }[profile]  # fmt: skip
        stored = weight.to(kind).float()
        share = float(torch.linalg.matrix_norm((stored - weight).double(), 2)) / rounding_size(stored)
        assert 0.4 < share < 1
        assert matrix_change(weight, stored, seed=0).effective_rank == 0
        # control: a change of one direction, ten times as large
        planted = torch.outer(torch.randn(shape[0], generator=rng), torch.randn(shape[1], generator=rng))
        planted *= 10 * rounding_size(stored) / torch.linalg.matrix_norm(planted, 2)
        both = (weight + planted).to(kind).float()
        assert matrix_change(weight, both, seed=0).effective_rank == pytest.approx(1, abs=0.05)


def test_a_change_that_is_all_rounding_has_no_directions() -> None:
    base = (0.02 * torch.randn(64, 48, generator=torch.Generator().manual_seed(4))).bfloat16().float()
    below = (base + 1e-3 * base.flip(0)).bfloat16().float()
    found = matrix_change(base, below, seed=0)
    assert found.relative_norm > 0
    assert (found.effective_rank, found.largest_share, found.outside) == (0, 0, found.random_outside)
    assert matrix_change(base, base + 1e-3 * base.flip(0), seed=0).effective_rank > 30  # stored as it was computed
