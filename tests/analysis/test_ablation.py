from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from ftmech_hf.analysis.ablation import importance_agreement


def test_agreement_is_spearmans_over_all_and_in_each_group() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = {"x": torch.randn(60, generator=generator), "y": torch.randn(40, generator=generator)}
    estimate = {name: values + 0.5 * torch.randn(len(values), generator=generator) for name, values in exact.items()}
    result = importance_agreement(estimate, exact, top=10)
    flat = [torch.cat(list(each.values())).numpy() for each in (estimate, exact)]
    assert result.rank_correlation == pytest.approx(stats.spearmanr(*flat).statistic)
    assert result.by_group["y"] == pytest.approx(stats.spearmanr(estimate["y"], exact["y"]).statistic)
    assert 0.3 < result.top_overlap < 1
    assert result.shuffled_correlation < 0.2 < result.rank_correlation
    assert result.shuffled_correlation > 0.04, "a mean of sizes, not of numbers that cancel"
    assert [row["group"] for row in result.rows()] == ["x", "y"]
    assert result.summary()["num_units"] == 100


def test_the_ends_and_what_does_not_vary() -> None:
    exact = {"x": torch.arange(9.0), "y": torch.zeros(1)}
    assert importance_agreement(exact, exact).rank_correlation == pytest.approx(1)
    assert importance_agreement(exact, exact).top_overlap == 1
    other_order = importance_agreement(dict(reversed(exact.items())), exact)
    assert (other_order.rank_correlation, other_order.top_overlap) == (pytest.approx(1), 1)
    turned = importance_agreement({name: -values for name, values in exact.items()}, exact, top=4)
    assert turned.rank_correlation == pytest.approx(-1)
    assert turned.top_overlap == 0
    assert math.isnan(importance_agreement(exact, exact).by_group["y"])
    with pytest.raises(ValueError, match=r"importance: of \{'x': 9\} in one"):
        importance_agreement({"x": exact["x"]}, exact)


def test_of_ties_at_the_cut_chance_decides_and_not_the_order() -> None:
    """15 of 30 numbers that are all alike say nothing of which are the largest, wherever these stand."""
    exact = torch.arange(30.0)
    for other in (exact, exact.flip(0)):
        found = importance_agreement({"a": torch.zeros(30)}, {"a": other}, top=6)
        assert found.top_overlap == pytest.approx(6 / 30)
    some = torch.zeros(30)
    some[[28, 29]] = 1.0  # two of the six are known, and four are drawn from the rest
    assert importance_agreement({"a": some}, {"a": exact}, top=6).top_overlap == pytest.approx((2 + 4 * 4 / 28) / 6)
    assert importance_agreement({"a": exact}, {"a": exact}, top=6).top_overlap == 1
