from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from ftmech_hf.statistics import linear_classifiers
from ftmech_hf.statistics.adamw import fit_adamw
from ftmech_hf.statistics.linear_classifiers import LinearFit, Scaling
from ftmech_hf.statistics.logistic import fit_logistic
from ftmech_hf.statistics.ridge import fit_ridge

CLASSES = 4


def make_problems(number: int = 400) -> tuple[Tensor, Tensor]:
    """Correlated features, labels that can partly be read from them, and the same labels shuffled twice."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(number, 10, generator=generator) @ torch.randn(10, 10, generator=generator)
    features = (features - features.mean(0)) / features.std(0, correction=0)
    noise = 2 * torch.randn(number, CLASSES, generator=generator)
    labels = (features @ torch.randn(10, CLASSES, generator=generator) + noise).argmax(-1)
    return features, torch.stack([labels, *(labels[torch.randperm(number, generator=generator)] for _ in range(2))])


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
def test_every_regression_is_scikit_learns(l2: float) -> None:
    features, labels = make_problems()
    fit = fit_logistic(features, labels, CLASSES, l2=l2, tol=1e-5)
    assert fit.converged.all()
    for found, each in zip(fit.logits(features).softmax(-1), labels, strict=True):
        oracle = LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-8).fit(features.double().numpy(), each.numpy())
        assert np.abs(oracle.predict_proba(features.double().numpy()) - found.numpy()).max() < 1e-3


def test_separable_labels_are_fitted_too() -> None:
    features, labels = make_problems()
    labels = (features[:, :CLASSES]).argmax(-1)[None]
    fit = fit_logistic(features, labels, CLASSES)
    assert fit.converged.all()
    assert (fit.logits(features)[0].argmax(-1) == labels[0]).double().mean() > 0.97


def test_together_is_one_by_one_and_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = make_problems()
    together = fit_logistic(features, labels, CLASSES)
    assert together.steps[0] > together.steps[1] > 0  # shuffled labels leave early
    for number in range(len(labels)):
        alone = fit_logistic(features, labels[number : number + 1], CLASSES)
        one, other = alone.logits(features)[0].softmax(-1), together.logits(features)[number].softmax(-1)
        assert torch.allclose(one, other, atol=1e-3)
    monkeypatch.setattr(linear_classifiers, "MAX_LOGITS", len(features) * CLASSES)
    apart = fit_logistic(features, labels, CLASSES)
    assert torch.allclose(apart.weight, together.weight, atol=5e-3)
    ridges = [fit_ridge(features, labels, CLASSES)]
    monkeypatch.undo()
    ridges.append(fit_ridge(features, labels, CLASSES))
    assert torch.allclose(ridges[0].weight, ridges[1].weight, atol=1e-6)


def test_what_did_not_converge_says_so() -> None:
    features, labels = make_problems()
    fit = fit_logistic(features, labels, CLASSES, max_iter=2)
    assert not fit.converged.any()
    assert fit.steps.tolist() == [2, 2, 2]


def test_a_class_that_never_occurred_is_never_answered() -> None:
    features, labels = make_problems()
    labels[labels == 2] = 0
    for fit in (
        fit_logistic(features, labels, CLASSES),
        fit_ridge(features, labels, CLASSES),
        fit_adamw(features, labels, CLASSES, seed=0, steps=8),
    ):
        assert torch.isneginf(fit.bias[:, 2]).all()
        assert torch.isfinite(fit.bias[:, [0, 1, 3]]).all()
        assert not (fit.logits(features).argmax(-1) == 2).any()


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_ridge_is_scikit_learns(shift: float) -> None:
    features, labels = make_problems()
    features = features + shift
    fit = fit_ridge(features, labels, CLASSES, l2=3.0)
    for number, each in enumerate(labels):
        oracle = RidgeClassifier(alpha=3.0).fit(features.double().numpy(), each.numpy())
        # its targets are -1 and 1 where these are 0 and 1
        decision = (oracle.decision_function(features.double().numpy()) + 1) / 2
        assert np.allclose(fit.logits(features)[number].numpy(), decision, atol=1e-4)


def test_adamw_is_the_plain_loop() -> None:
    features, labels = make_problems()
    fit = fit_adamw(features, labels, CLASSES, seed=3, steps=40, lr=1e-2, batch_size=32)
    batches = torch.randint(len(features), (40, 32), generator=torch.Generator().manual_seed(3))
    for number, each in enumerate(labels):
        probe = nn.Linear(10, CLASSES)
        nn.init.zeros_(probe.weight)
        nn.init.zeros_(probe.bias)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-2)
        for step, batch in enumerate(batches):
            optimizer.param_groups[0]["lr"] = 1e-2 * 0.1 ** sum(step >= milestone for milestone in (20, 30, 35))
            optimizer.zero_grad()
            F.cross_entropy(probe(features[batch]), each[batch]).backward()
            optimizer.step()
        assert torch.allclose(fit.weight[number].T, probe.weight, atol=1e-5)
        assert torch.allclose(fit.bias[number], probe.bias, atol=1e-5)
    assert fit.weight.abs().max() > 1e-2


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ([[NAN, 1.0], [1.0, 2.0]], [[0, 1]], "features: 1 of 2 rows hold nan or infinity"),
        ([[1.0, INF], [-INF, 2.0]], [[0, 1]], "features: 2 of 2 rows hold nan or infinity"),
        ([[1, 2], [3, 4]], [[0, 1]], r"features: int64 of shape \(2, 2\), expected floating-point"),
        ([1.0, 2.0], [[0, 1]], r"features: float32 of shape \(2,\)"),
        ([[1.0], [2.0]], [[0, 1, 1]], r"labels: \(1, 3\), expected one for each of 2 rows"),
        ([[1.0], [2.0]], [0, 1], r"labels: int64 of shape \(2,\)"),
        ([[1.0], [2.0]], [[0.0, NAN]], "labels: float32 of shape"),
        ([[1.0], [2.0]], [[True, False]], "labels: bool of shape"),
        ([[1.0], [2.0]], [[0, 4]], "labels: from 0 to 4, expected class numbers from 0 to 3"),
        ([[1.0], [2.0]], [[-1, 0]], "labels: from -1 to 0, expected class numbers"),
    ],
)
@pytest.mark.parametrize("method", [fit_logistic, fit_ridge, fit_adamw])
def test_what_is_no_number_or_no_class_is_refused(
    method: Callable[..., LinearFit], features: Any, labels: Any, message: str
) -> None:
    more = {"seed": 0, "steps": 8} if method is fit_adamw else {}
    with pytest.raises(ValueError, match=message):
        method(torch.tensor(features), torch.tensor(labels), CLASSES, **more)


@pytest.mark.parametrize("method", [fit_logistic, fit_ridge, fit_adamw])
def test_one_class_alone_is_always_answered_and_rows_may_be_fewer_than_classes(
    method: Callable[..., LinearFit],
) -> None:
    more = {"seed": 0, "steps": 8} if method is fit_adamw else {}
    features = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    fit = method(features, torch.tensor([[2, 2, 2], [0, 1, 3]]), CLASSES, **more)
    answers = fit.logits(features).argmax(-1)
    assert answers[0].tolist() == [2, 2, 2]
    assert not (answers[1] == 2).any()


@pytest.mark.parametrize("l2", [NAN, -1.0, INF])
def test_a_penalty_is_a_number(l2: float) -> None:
    for method in (fit_logistic, fit_ridge):
        with pytest.raises(ValueError, match=f"l2: {l2}, expected a number of 0 or more"):
            method(torch.randn(4, 2), torch.tensor([[0, 1, 2, 3]]), CLASSES, l2=l2)


def test_a_ridge_without_a_penalty_needs_rows_that_fix_it() -> None:
    with pytest.raises(ValueError, match="l2: 0 is too little for 3 rows of 5 features"):
        fit_ridge(torch.zeros(3, 5), torch.tensor([[0, 1, 2]]), CLASSES, l2=0)


def test_what_is_rounding_beside_the_largest_number_is_not_made_readable() -> None:
    """A label that is written into numbers of 1 in their seventh digit, as a compiled program leaves it."""
    label = torch.tensor([0.0, 1.0] * 50)
    features = torch.stack([4e-7 * label, 1 - label, torch.ones(100), 1e-3 * label], 1)
    scaling = Scaling.of(features, standardize=True)
    assert scaling.scale[[0, 2]].tolist() == [1, 1]
    assert scaling.apply(features)[:, 0].abs().max() < 1e-6
    for each in (1, 3):
        assert scaling.apply(features)[:, each].std(correction=0) == pytest.approx(1)
