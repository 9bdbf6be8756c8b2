from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ftmech_hf.analysis.similarity import compare_representations, linear_cka, unbiased_hsic


def hsic_by_definition(first: Tensor, second: Tensor) -> float:
    """The U-statistic over all quadruples of distinct rows (Gretton et al., 2005; Song et al., 2012)."""
    total, number = 0.0, len(first)
    for i, j, q, r in itertools.permutations(range(number), 4):
        total += float(first[i, j] * (second[i, j] + second[q, r] - 2 * second[i, q]))
    return total / math.perm(number, 4)


def test_it_is_the_statistic_over_all_quadruples() -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(7, width, generator=rng).double() for width in (3, 5))
    grams = [values @ values.T for values in (first, second)]
    assert float(unbiased_hsic(*grams)) == pytest.approx(hsic_by_definition(*grams))
    own = [hsic_by_definition(gram, gram) for gram in grams]
    centred = [(values - values.mean(0)) @ (values - values.mean(0)).T for values in (first, second)]
    # the statistic does not depend on where zero is
    assert float(unbiased_hsic(*centred)) == pytest.approx(float(unbiased_hsic(*grams)))
    assert linear_cka(first, second) == pytest.approx(hsic_by_definition(*grams) / math.sqrt(own[0] * own[1]))


def test_rotation_scale_and_shift_change_nothing_and_another_map_does() -> None:
    torch.manual_seed(0)
    values = torch.randn(100, 8) * torch.tensor([9.0, 5, 3, 2, 1, 1, 1, 1])
    rotation, _ = torch.linalg.qr(torch.randn(8, 8))
    assert linear_cka(values, values @ rotation * 3 + 5) == pytest.approx(1, abs=1e-5)
    assert linear_cka(values, values / values.std(0)) < 0.9
    assert linear_cka(values, values**2) < 0.3


def test_unrelated_ones_are_at_zero_where_the_plain_estimator_is_not() -> None:
    torch.manual_seed(0)
    drawn = [(torch.randn(60, 100), torch.randn(60, 100)) for _ in range(40)]
    debiased = [linear_cka(*pair) for pair in drawn]
    assert abs(np.mean(debiased)) < 0.02
    first, second = (values - values.mean(0) for values in drawn[0])
    plain = (first.T @ second).norm() ** 2 / ((first.T @ first).norm() * (second.T @ second).norm())
    assert plain > 0.5


@pytest.mark.parametrize("seed", range(12))
def test_the_control_pairs_every_row_with_another_one_and_halves_are_two(seed: int) -> None:
    """Each row is far from all others in a direction of its own: of few rows that stay a model would be like itself."""
    rows = 100 * torch.eye(12)
    seen = []

    def spy(first: Tensor, second: Tensor) -> float:
        seen.append((first, second))
        return float(len(seen))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftmech_hf.analysis.similarity.linear_cka", spy)
        compare_representations({"a": rows}, {"a": rows + 1}, seed=seed)
    whole, early, late, control = seen
    assert torch.equal(whole[0], rows)
    assert torch.equal(early[0], rows[:6])
    assert torch.equal(late[0], rows[6:])
    assert torch.equal(early[1], rows[:6] + 1)
    assert torch.equal(late[1], rows[6:] + 1)
    partners = (control[1] - 1).argmax(1)
    assert sorted(partners.tolist()) == list(range(12))
    assert not (partners == torch.arange(12)).any()


def test_the_control_shuffles_and_constants_have_no_similarity() -> None:
    torch.manual_seed(0)
    values = torch.randn(200, 6)
    first = {"block 0": torch.ones(200, 6), "block 1": values}
    result = compare_representations(first, {"block 0": torch.ones(200, 6), "block 1": values + 0.1}, seed=0)
    assert math.isnan(result.cka["block 0"])
    assert result.cka["block 1"] == pytest.approx(1)
    assert result.halves["block 1"] == (pytest.approx(1), pytest.approx(1))
    assert abs(result.shuffled["block 1"]) < 0.1
    assert result.summary()["most_changed"] == "block 1"
    assert len(result.rows()) == 2
    with pytest.raises(ValueError, match="sites"):
        compare_representations(first, {"block 1": values}, seed=0)
    with pytest.raises(ValueError, match="rows: 200 and 199"):
        linear_cka(values, values[1:])


@pytest.mark.parametrize("size", [1e-7, 1.0, 30.0, 1e6])
def test_a_constant_is_one_and_a_small_number_none_of_whatever_size(size: float) -> None:
    """The mean of equal numbers in float32 is another number, and what is left looks like a representation."""
    values = size * torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    assert linear_cka(values, values) == pytest.approx(1)
    for seed in range(5):
        row = size * torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
        assert math.isnan(linear_cka(row.repeat(500, 1), values))
        assert math.isnan(linear_cka(row.repeat(500, 1), row.repeat(500, 1)))
