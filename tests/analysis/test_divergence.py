from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ftmech_hf.analysis.divergence import divergence_from_truth

PARTS = {"first": slice(1, 2), "rest": slice(2, None), "all": slice(0, None)}


def random_case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 3, 7, generator=generator)
    truth = torch.randn(5, 3, 7, generator=generator).softmax(-1)
    truth[:, :, 0] = 0
    truth /= truth.sum(-1, keepdim=True)
    return logits, truth, torch.randint(1, 7, (5, 4), generator=generator)


def test_it_agrees_with_scipy() -> None:
    logits, truth, token_ids = random_case()
    result = divergence_from_truth(logits, truth, token_ids, PARTS)
    model = logits.double().softmax(-1).numpy()
    kl = stats.entropy(truth.double().numpy(), model, axis=-1)
    assert result.kl["first"] == pytest.approx(kl[:, 0].mean(), rel=1e-6)
    assert result.kl["rest"] == pytest.approx(kl[:, 1:].mean(), rel=1e-6)
    came = token_ids[:, 1:].numpy()[..., None]
    assert result.loss["all"] == pytest.approx(-np.log(np.take_along_axis(model, came, -1)).mean(), rel=1e-6)
    lowest = -np.log(np.take_along_axis(truth.double().numpy(), came, -1)).mean()
    assert result.lowest_loss["all"] == pytest.approx(lowest, rel=1e-6)
    assert result.tokens == {"first": 5, "rest": 10, "all": 15}
    assert {row["part"] for row in result.rows()} == set(PARTS)


def test_the_truth_itself_has_no_divergence_and_anything_else_has() -> None:
    logits, truth, token_ids = random_case()
    perfect = divergence_from_truth(truth.log(), truth, token_ids, PARTS)
    assert perfect.kl["all"] == pytest.approx(0, abs=1e-6)
    assert perfect.loss == pytest.approx(perfect.lowest_loss, rel=1e-5)
    assert min(divergence_from_truth(logits, truth, token_ids, PARTS).kl.values()) > 0.1


def test_shapes_are_checked() -> None:
    logits, truth, token_ids = random_case()
    with pytest.raises(ValueError, match=r"expected both \(5, 3\)"):
        divergence_from_truth(logits[:, :2], truth[:, :2], token_ids, PARTS)
