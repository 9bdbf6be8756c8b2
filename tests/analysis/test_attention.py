from __future__ import annotations

import numpy as np
import pytest
import torch

from ftmech_hf.analysis.attention import attention_change, attention_to_groups


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


def test_change_is_zero_for_the_same_and_one_for_disjoint() -> None:
    tokens = torch.tensor([[5, 6]])
    to_a, to_b = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    first, second = (attention_to_groups(p, tokens, {"a": [5], "b": [6]}) for p in (to_a, to_b))
    assert attention_change(first, first) == 0
    assert attention_change(first, second) == pytest.approx(1)
    assert np.allclose(first.mass.sum(-1), 1)
