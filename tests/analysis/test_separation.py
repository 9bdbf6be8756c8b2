from __future__ import annotations

import pytest
import torch

from ftmech_hf.analysis.separation import cluster_separation, cluster_tau, side_of


def test_tau_is_the_distance_to_the_other_mean_less_that_to_the_own() -> None:
    first = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    second = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [1.0, 0.0]])
    tau, own = cluster_tau(first, second)
    # means (0, 0) and (4, 0), from the first halves
    assert tau.tolist() == pytest.approx([3 - 1, 5 - 3, 4 - 0, 1 - 3])
    assert own == pytest.approx((1 + 3 + 0 + 3) / 4)


def test_it_grows_with_the_distance_and_is_nothing_without_one() -> None:
    torch.manual_seed(0)
    values = {"block 0": torch.randn(200, 64), "block 1": torch.randn(200, 64)}
    other = {"block 0": torch.randn(200, 64), "block 1": torch.randn(200, 64) + 2.0}
    result = cluster_separation(values, other, seed=0)
    near, far = result.rows()
    assert abs(near["tau"]) < 0.05  # with means from the measured rows it would be above 0.1
    assert near["own_side_low"] < 0.5 < near["own_side_high"]
    assert far["tau"] > 0.5
    assert far["own_side"] == 1
    assert abs(far["shuffled"]) < 0.1 * far["tau"]
    assert result.summary() == {"best_site": "block 1", "tau": far["tau"], "own_side": 1}
    with pytest.raises(ValueError, match="sites"):
        cluster_separation(values, {"block 0": values["block 0"]}, seed=0)


def test_means_of_the_same_rows_would_separate_anything() -> None:
    """What the halves are for."""
    torch.manual_seed(0)
    first, second = torch.randn(50, 64), torch.randn(50, 64)
    own = (first - second.mean(0)).norm(dim=-1) - (first - first.mean(0)).norm(dim=-1)
    assert own.mean() > 0.1
    assert abs(float(cluster_tau(first, second)[0].mean())) < own.mean() / 2


def test_a_side_is_that_of_the_nearer_mean() -> None:
    first, second = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 5.0], [0.0, 7.0], [0.0, 6.0]])
    rows = torch.tensor([[2.0, 0.0], [0.0, 6.0], [1.0, 3.0], [0.0, 0.0]])
    found, scale = side_of(rows, first, second)
    distance = 40**0.5
    assert found.tolist() == pytest.approx([distance, -distance, 0.0, 6 - 2], abs=1e-5)  # the third is half-way
    assert scale == pytest.approx((1 + 1 + 1 + 1 + 0) / 5)
    exchanged, _ = side_of(rows, second, first)  # what must fail
    assert exchanged.tolist() == pytest.approx((-found).tolist())
