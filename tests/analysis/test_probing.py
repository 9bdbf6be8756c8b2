from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ftmech_hf.analysis.probing import fit_probes


def planted(number: int, seed: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Labels that can be read linearly after the second block, and not before."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, number, p=[0.1, 0.5, 0.3, 0.1])
    noise = rng.normal(size=(2, number, 12)).astype(np.float32)
    direction = np.random.default_rng(99).normal(size=(4, 12)).astype(np.float32)
    return {
        "block 0": torch.from_numpy(noise[0]),
        "block 1": torch.from_numpy(noise[1] + 4 * direction[labels]),
    }, labels


def test_a_planted_readout_is_found_where_it_is_and_not_before() -> None:
    (train, train_labels), (test, test_labels) = planted(1500, 0), planted(1000, 1)
    result = fit_probes(train, train_labels, test, test_labels)
    majority = float((test_labels == 1).mean())
    assert result.majority == pytest.approx(majority)
    assert result.accuracy["block 1"] > 0.98
    assert result.accuracy["block 0"] < majority + 0.03
    assert max(result.shuffled.values()) < majority + 0.06
    assert result.best_site() == "block 1"
    assert [row["site"] for row in result.rows()] == ["block 0", "block 1"]
    assert result.summary()["accuracy"] == result.accuracy["block 1"]


def test_it_is_scikit_learns_logistic_regression() -> None:
    (train, train_labels), (test, test_labels) = planted(600, 0), planted(600, 1)
    result = fit_probes(train, train_labels, test, test_labels)
    for site in train:
        scaler = StandardScaler().fit(train[site])
        oracle = LogisticRegression(max_iter=2000, tol=1e-6).fit(scaler.transform(train[site]), train_labels)
        assert result.accuracy[site] == pytest.approx(
            oracle.score(scaler.transform(test[site]), test_labels), abs=0.005
        )


def test_constant_activations_give_the_majority() -> None:
    labels = np.array([1] * 70 + [0] * 30)
    constant = {"embedding": torch.ones(100, 5)}
    result = fit_probes(constant, labels, constant, labels)
    assert result.accuracy["embedding"] == result.majority == 0.7


def test_mismatches_are_named() -> None:
    values, labels = planted(50, 0)
    with pytest.raises(ValueError, match=r"sites: .* expected the same"):
        fit_probes(values, labels, {"block 0": values["block 0"]}, labels)
    with pytest.raises(ValueError, match="test: 50 rows at block 0, but 49 labels"):
        fit_probes(values, labels, values, labels[:-1])
