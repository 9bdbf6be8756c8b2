from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.input_gradients import (
    InputGradientsResult,
    compare_input_gradients,
    gradient_norms,
    input_gradient_norms,
)
from ftmech_hf.training.evaluation import answer_logits


def test_a_linear_model_has_the_norm_of_its_row() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 12)
    inputs = torch.randn(7, 3, 4, requires_grad=True)
    logits = inputs.flatten(1) @ weight.T
    expected = weight.norm(dim=-1)[logits.argmax(-1)]
    torch.testing.assert_close(gradient_norms(logits, inputs), expected)
    assert expected.unique().numel() > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_has_the_same_norms(any_model: PreTrainedModel, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    rows = torch.randint(3, 40, (6, 8))
    any_model.load_state_dict({name: value.bfloat16().float() for name, value in any_model.state_dict().items()})
    expected = input_gradient_norms(any_model, rows)
    best = answer_logits(any_model, rows).argmax(-1)
    norms = input_gradient_norms(any_model.to(dtype), rows)
    assert norms.dtype == np.float32
    same = (answer_logits(any_model, rows).argmax(-1) == best).numpy()  # of other logits the slope is another
    assert same.sum() >= 4
    np.testing.assert_allclose(norms[same], expected[same], rtol=0.1 if dtype == torch.bfloat16 else 1e-4)


def test_it_is_the_steepest_slope_of_the_largest_logit(any_model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    rows = torch.randint(3, 40, (6, 8))
    norms = input_gradient_norms(any_model, rows, batch_size=4)
    model = any_model.double()
    best = answer_logits(model, rows).argmax(-1)
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), intervene(model, {("resid_pre", 0): lambda stream: seen.setdefault(0, stream)}):
        answer_logits(model, rows)
    entered = seen[0]
    slopes = torch.zeros(6)
    step = 1e-5

    def logit(moved: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), intervene(model, {("resid_pre", 0): moved}):
            return model(rows[:, :-2], logits_to_keep=1).logits[torch.arange(6), -1, best]

    gradient = torch.zeros_like(entered)
    for position in range(entered.shape[1]):
        for dimension in range(entered.shape[2]):
            direction = torch.zeros_like(entered)
            direction[:, position, dimension] = step
            gradient[:, position, dimension] = (logit(entered + direction) - logit(entered - direction)) / (2 * step)
    slopes = gradient.flatten(1).norm(dim=-1)
    np.testing.assert_allclose(norms, slopes.numpy(), rtol=2e-3)
    assert norms.std() > 0.01


def test_ratios_are_of_the_same_rows_and_halves_are_about_equal(any_model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    rows = torch.randint(3, 40, (40, 8))
    before = compare_input_gradients({"base": any_model}, rows).norms["base"]
    result = InputGradientsResult({"base": before, "twice": 2 * before})
    assert result.ratio("twice", "base") == pytest.approx((2, 2, 2))
    assert result.ratio("base", "base") == pytest.approx((1, 1, 1))
    assert 0.5 < result.halves_ratio("base") < 2
    uneven = np.where(np.arange(40) % 2, before, 3 * before[np.arange(40) ^ 1])  # each pair is 3 and 1 of one number
    assert InputGradientsResult({"base": uneven}).halves_ratio("base") == pytest.approx(3)
    assert result.rows()[0]["low"] < result.rows()[0]["median"] < result.rows()[0]["high"]
    assert result.summary()["twice"] == pytest.approx(2 * result.summary()["base"])
    # scaling the unembedding scales the gradient
    with torch.no_grad():
        any_model.get_output_embeddings().weight.mul_(3)
    after = input_gradient_norms(any_model, rows)
    np.testing.assert_allclose(after, 3 * before, rtol=1e-4)


def test_a_row_whose_answer_does_not_depend_on_its_input_has_no_ratio() -> None:
    base, deaf = np.array([1, 2, 4, 8], np.float32), np.array([2, 0, 8, 0], np.float32)
    result = InputGradientsResult({"base": base, "deaf": deaf, "stone": 0 * base})
    assert result.ratio("deaf", "base") == pytest.approx((2, 2, 2))
    assert result.halves_ratio("deaf") == pytest.approx(1 / 4)
    assert np.isnan([*result.ratio("stone", "base"), result.halves_ratio("stone")]).all()


def test_gradients_that_are_no_numbers_are_refused(any_model: PreTrainedModel) -> None:
    with torch.no_grad():
        any_model.get_output_embeddings().weight[3] = torch.nan
    with pytest.raises(ValueError, match=r"^model: its gradients are nan or inf, expected numbers"):
        input_gradient_norms(any_model, torch.randint(3, 40, (6, 8)))
