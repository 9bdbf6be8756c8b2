from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from ftmech_hf.analysis.attention import activation_change, attention_change, attention_to_groups, pattern_change


def test_mass_is_summed_by_hand() -> None:
    tokens = torch.tensor([[5, 6, 5, 9], [6, 6, 9, 9]])
    patterns = torch.zeros(1, 2, 1, 4)
    patterns[0, 0, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    patterns[0, 1, 0] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    result = attention_to_groups(patterns, tokens, {"a": [5], "b": [6]})
    assert result.groups == ("a", "b", "other")
    assert result.mass[0, 0] == pytest.approx([(0.4 + 0.0) / 2, (0.2 + 1.0) / 2, (0.4 + 0.0) / 2])
    assert result.pattern.tolist() == patterns[:, 0].tolist()
    assert [row["group"] for row in result.rows()] == ["a", "b", "other"]
    assert sum(result.summary().values()) == pytest.approx(1)


def test_what_is_in_two_groups_is_counted_in_both_and_not_taken_from_the_rest() -> None:
    patterns = torch.full((1, 1, 1, 4), 0.25)
    result = attention_to_groups(patterns, torch.tensor([[5, 6, 7, 9]]), {"a": [5], "letters": [5, 6, 7]})
    assert result.mass[0, 0].tolist() == [0.25, 0.75, 0.25]


def test_change_is_zero_for_the_same_and_one_for_disjoint() -> None:
    tokens = torch.tensor([[5, 6]])
    to_a, to_b = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    first, second = (attention_to_groups(p, tokens, {"a": [5], "b": [6]}) for p in (to_a, to_b))
    assert attention_change(first, first) == 0
    assert attention_change(first, second) == pytest.approx(1)
    assert np.allclose(first.mass.sum(-1), 1)


def make_patterns(seed: int, shift: float = 0.0) -> torch.Tensor:
    """Patterns of 2 layers, 40 rows, 3 heads, 6 tokens; the last head of all looks elsewhere by ``shift``."""
    scores = torch.randn(2, 40, 3, 6, generator=torch.Generator().manual_seed(seed))
    scores[1, :, 2, 0] += shift
    return scores.softmax(-1)


def test_the_head_that_moved_is_named_and_the_others_are_not() -> None:
    before = make_patterns(0)
    after = make_patterns(0, shift=3.0)
    result = pattern_change(before, after)
    one, other = before[1, :, 2].double().numpy(), after[1, :, 2].double().numpy()
    assert result.by_row[1, 2] == pytest.approx(0.5 * np.abs(one - other).sum(-1).mean())
    assert result.jensen_shannon is not None
    expected = [jensenshannon(p, q, base=2) ** 2 for p, q in zip(one, other, strict=True)]
    assert result.jensen_shannon[1, 2] == pytest.approx(np.mean(expected))
    assert result.of_means[1, 2] == pytest.approx(0.5 * np.abs(one.mean(0) - other.mean(0)).sum())
    assert result.of_means[1, 2] > result.null_high[1, 2] > result.null[1, 2] > 0
    moved = {(row["layer"], row["head"]) for row in result.rows() if row["by_row"] > 0}
    assert moved == {(1, 2)}
    assert result.summary()["share_above_null"] == pytest.approx(1 / 6)


def test_nothing_changed_between_two_draws_of_the_same_rows() -> None:
    """A null that were too small would call chance a change."""
    shares = [
        pattern_change(make_patterns(seed), make_patterns(seed + 100)).summary()["share_above_null"]
        for seed in range(20)
    ]
    assert np.mean(shares) < 0.05
    assert pattern_change(make_patterns(0), make_patterns(0)).by_row.max() == 0


def test_mlp_activations_change_in_units_of_their_size() -> None:
    before = torch.randn(2, 50, 30, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[1] += 2 * before[1].square().sum(-1).mean().sqrt() / 30**0.5
    result = activation_change(before, after)
    assert result.by_row[:, 0] == pytest.approx([0, 2])
    assert result.of_means[1, 0] > result.null_high[1, 0]
    assert result.of_means[0, 0] <= result.null_high[0, 0]
    assert [(row["layer"], row["head"], row["kind"]) for row in result.rows()] == [(0, -1, "mlp"), (1, -1, "mlp")]
    with pytest.raises(ValueError, match="expected the same rows"):
        activation_change(before, after[:, 1:])
    with pytest.raises(ValueError, match="1 row, expected at least 2"):
        activation_change(before[:, :1], after[:, :1])
