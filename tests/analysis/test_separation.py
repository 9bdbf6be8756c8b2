from __future__ import annotations

import numpy as np
import pytest
import torch

from ftmech_hf.analysis.separation import cluster_separation, cluster_tau, side_of
from ftmech_hf.statistics.clusters import Groups, share_right
from ftmech_hf.statistics.intervals import Share


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


@pytest.mark.parametrize("sizes", [(400, 40), (40, 400)])
def test_kinds_of_unequal_size_are_not_apart_where_nothing_separates_them(sizes: tuple[int, int]) -> None:
    """The control: a mean of few rows is far from all others', so that without it most rows are on their own side."""
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        first, second = (torch.randn(number, 64) for number in sizes)
        tau, _ = cluster_tau(first, second)
        assert len(tau) == 2 * 20
        means = [each[: len(each) // 2].mean(0) for each in (first, second)]
        large = (first if sizes[0] > sizes[1] else second)[200:]
        own, other = means if sizes[0] > sizes[1] else means[::-1]
        naive = ((large - other).norm(dim=-1) > (large - own).norm(dim=-1)).float().mean()
        found.append((float((tau > 0).float().mean()), float(naive)))
    fair, unfair = torch.tensor(found).mean(0).tolist()
    assert 0.44 < fair < 0.56
    assert unfair > 0.7


def test_too_few_rows_of_a_kind_are_refused_and_the_control_is_that_of_chance() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="rows: 50 and 3 of the two kinds, expected 4 or more"):
        cluster_tau(torch.randn(50, 4), torch.randn(3, 4))
    first, second = torch.randn(40, 8), torch.randn(40, 8) + 3
    result = cluster_separation({"a": first}, {"a": second}, seed=3)
    both = torch.cat([first, second])
    mixed = both[torch.randperm(80, generator=torch.Generator().manual_seed(3))]
    assert result.shuffled["a"] == pytest.approx(float(cluster_tau(mixed[:40], mixed[40:])[0].mean()))
    assert result.shuffled["a"] != 0


def test_rows_of_a_group_lie_on_their_own_side_together() -> None:
    """Five groups of eight in each measured half, which are apart by less than groups differ: few are known, not 80."""
    torch.manual_seed(3)
    about = np.arange(80) // 8
    first, second = (torch.randn(10, 16)[about] + 0.1 * torch.randn(80, 16) + each for each in (0.0, 0.4))

    def own_side(groups: tuple[Groups, Groups]) -> Share:
        (row,) = cluster_separation({"a": first}, {"a": second}, groups=groups, seed=0).rows()
        return Share(row["own_side"], row["own_side_low"], row["own_side_high"])

    alone, together = own_side((None, None)), own_side((about, about))
    assert own_side((None, None)) == alone
    tau, _ = cluster_tau(first, second, (about, about))
    odd = np.concatenate([about[about % 2 == 1]] * 2)  # every second group is measured
    members = odd + 100 * (np.arange(80) >= 40)  # the second kind's groups are others
    assert together == share_right((tau > 0).numpy(), members)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="groups: of 79 rows, expected those of all 80"):
        own_side((about[1:], None))


@pytest.mark.parametrize("number", [20, 40])
def test_groups_that_lie_in_both_kinds_halves_separate_nothing(number: int) -> None:
    """In random order, as they are asked, rows that are about the same lie in both halves: a row is near their mean."""
    found: dict[str, list[float]] = {"groups": [], "rows": [], "by chance": []}
    for seed in range(10):
        torch.manual_seed(seed)
        about = np.random.default_rng(seed).permutation(np.arange(192) % number)
        kinds = [torch.randn(number, 128)[about] + torch.randn(192, 128) for _ in range(2)]
        for name, groups in (("groups", (about, about)), ("rows", (None, None))):
            result = cluster_separation({"a": kinds[0]}, {"a": kinds[1]}, groups=groups, seed=0)
            found[name].append(result.rows()[0]["own_side"])
            if name == "groups":
                found["by chance"].append(result.shuffled["a"] / result.scale["a"])
    assert 0.45 < np.mean(found["groups"]) < 0.55
    assert np.mean(found["rows"]) > 0.65, "the control: such halves separate two kinds of one"
    assert abs(np.mean(found["by chance"])) < 0.01


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
