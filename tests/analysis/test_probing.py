from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import PreTrainedModel

from ftmech_hf.activations import TracedModel, find_units
from ftmech_hf.analysis.probing import ANSWER, Method, ProbingResult, fit_probes
from ftmech_hf.analysis.pruning import pruned
from ftmech_hf.statistics import linear_classifiers
from ftmech_hf.statistics.online_code import CODE_FRACTIONS
from tests.simulated_gpu import simulated_gpu


def planted(number: int, seed: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """Labels that can be read linearly after the second block, and not before."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, number, p=[0.1, 0.5, 0.3, 0.1])
    noise = rng.normal(size=(2, number, 12)).astype(np.float32)
    direction = np.random.default_rng(99).normal(size=(4, 12)).astype(np.float32)
    return {
        "block 0": torch.from_numpy(noise[0]),
        "block 1": torch.from_numpy(100 + noise[1] + 4 * direction[labels]),
    }, labels


@pytest.mark.parametrize("method", ["logistic", "ridge", "adamw"])
def test_a_planted_readout_is_found_where_it_is_and_not_before(method: Method) -> None:
    (train, train_labels), (test, test_labels) = planted(1500, 0), planted(1000, 1)
    if method == "adamw":  # takes activations as they are, and a short run forgives no offset
        train, test = ({site: values - values.mean() for site, values in each.items()} for each in (train, test))
    result = fit_probes(train, train_labels, test, test_labels, method=method, code=False, adamw_steps=800)
    majority = float((test_labels == 1).mean())
    before, after = result.score("block 0"), result.score("block 1")
    assert after.majority == pytest.approx(majority)
    assert after.accuracy > 0.98
    # Wilson's interval: the shares that are 1.96 of their own standard errors from the measured one
    for share in (before.low, before.high):
        assert abs(share - before.accuracy) / (share * (1 - share) / 1000) ** 0.5 == pytest.approx(1.96, abs=1e-3)
    assert before.accuracy < majority + 0.03
    assert max(before.shuffled, after.shuffled) < majority + 0.06
    assert result.best().site == "block 1"
    assert [row["site"] for row in result.rows()] == ["block 0", "block 1"]
    assert result.summary()["accuracy"] == after.accuracy
    assert result.summary()["best_site"] == "block 1"


def test_the_best_site_is_chosen_on_rows_of_their_own() -> None:
    """Of many sites with nothing to read one is best by chance, on every set of rows another."""
    rng = np.random.default_rng(0)
    number = 300

    def nothing() -> dict[str, Tensor]:
        return {
            f"block {place}": torch.from_numpy(rng.normal(size=(number, 3)).astype(np.float32)) for place in range(12)
        }

    labels = [rng.integers(2, size=number) for _ in range(3)]
    train, choose, test = nothing(), nothing(), nothing()
    result = fit_probes(train, labels[0], test, labels[2], choose=(choose, {"answer": labels[1]}), code=False)
    best = result.best()
    for score in result.scores:
        probe = result.probes[score.site, "answer"]
        assert score.chosen == (probe.predict(choose[score.site]).numpy() == labels[1]).mean()
        right = result.right[score.site, "answer"]
        assert (right == (probe.predict(test[score.site]).numpy() == labels[2])).all()
        assert right.mean() == score.accuracy
    assert best.chosen == max(score.chosen for score in result.scores if score.chosen is not None)
    assert best.accuracy < max(score.accuracy for score in result.scores)  # which would be too high
    without = fit_probes(train, labels[0], test, labels[2], code=False)
    assert without.best().accuracy == max(score.accuracy for score in result.scores)
    assert without.best().chosen is None


def test_what_attention_carries_is_readable_after_its_block_and_not_before(any_model: PreTrainedModel) -> None:
    """The label is an early token; the first block's heads are taken out, so only the second can bring it along."""
    rows = torch.full((900, 4), 5)
    for position, kinds in ((0, 2), (1, 3), (3, 4)):
        drawn = torch.randint(10, 10 + kinds, (900,), generator=torch.Generator().manual_seed(position))
        rows[:, position] = drawn
    labels = rows[:, 1].numpy()

    def read() -> dict[str, float]:
        stream = TracedModel(any_model).collect(rows, ["resid_post"])
        sites = {f"block {layer}": stream["resid_post", layer] for layer in range(2)}
        parts = (slice(600), slice(600, None))
        fit_on, test_on = ({site: values[part] for site, values in sites.items()} for part in parts)
        result = fit_probes(fit_on, labels[:600], test_on, labels[600:], code=False)
        return {score.site: score.accuracy for score in result.scores}

    units = find_units(any_model, "head")
    everything = {name: torch.full((group.num_units,), name != "head.0") for name, group in units.items()}
    with pruned(units, everything):
        without = read()
    assert without["block 0"] < 0.45
    assert without["block 1"] > 0.9
    assert read()["block 0"] > 0.6  # chance is a third; random attention need not carry a token cleanly


def test_it_is_scikit_learns_logistic_regression() -> None:
    (train, train_labels), (test, test_labels) = planted(600, 0), planted(600, 1)
    result = fit_probes(train, train_labels, test, test_labels)
    for site in train:
        scaler = StandardScaler().fit(train[site])
        oracle = LogisticRegression(max_iter=2000, tol=1e-6).fit(scaler.transform(train[site]), train_labels)
        score = oracle.score(scaler.transform(test[site]), test_labels)
        assert result.score(site).accuracy == pytest.approx(score, abs=0.005)
        # the probe itself takes activations as they are in the model
        again = (result.probes[site, "answer"].predict(test[site]).numpy() == test_labels).mean()
        assert again == pytest.approx(result.score(site).accuracy, abs=0.002)


def test_several_labels_at_once_are_each_alone() -> None:
    (train, first), (test, held_out) = planted(500, 0), planted(300, 1)
    second, second_test = first % 2 + 5, held_out % 2 + 5
    both = fit_probes(train, {"x": first, "y": second}, test, {"x": held_out, "y": second_test})
    for label, fit_on, test_on in (("x", first, held_out), ("y", second, second_test)):
        alone = fit_probes(train, fit_on, test, test_on)
        for site in train:
            assert both.score(site, label).accuracy == pytest.approx(alone.score(site).accuracy, abs=0.004)
            assert both.score(site, label).code_bits == pytest.approx(alone.score(site).code_bits, abs=0.02)
    assert both.probes["block 1", "y"].classes.tolist() == [5, 6]
    assert [(row["site"], row["label"]) for row in both.rows()] == [
        ("block 0", "x"), ("block 0", "y"), ("block 1", "x"), ("block 1", "y"),
    ]  # fmt: skip


def test_constant_activations_give_the_majority() -> None:
    labels = np.array([1] * 70 + [0] * 30)
    constant = {"embedding": torch.ones(100, 5)}
    for method in ("logistic", "ridge"):
        result = fit_probes(constant, labels, constant, labels, method=method)  # type: ignore[arg-type]
        score = result.score("embedding")
        assert score.accuracy == score.majority == 0.7


def test_selectivity_unmasks_a_probe_that_memorises() -> None:
    """Types are readable one by one, so a probe can learn any labelling of them; the label is no more than that."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 6, 1200)
    labels = np.array([0, 1, 2, 0, 1, 2])[kinds]
    one_hot = {"embedding": torch.eye(6)[kinds]}
    memorised = fit_probes(one_hot, labels, one_hot, labels, types=(kinds, kinds)).score("embedding")
    assert memorised.accuracy == 1
    assert memorised.selectivity == pytest.approx(0)
    assert memorised.shuffled < 0.45
    # a readout of the label alone cannot do the control task
    read = {"stream": torch.eye(3)[labels]}
    selective = fit_probes(read, labels, read, labels, types=(kinds, kinds), num_tasks=20).score("stream")
    assert selective.accuracy == 1
    assert selective.selectivity is not None
    assert selective.selectivity > 0.15
    assert fit_probes(read, labels, read, labels).score("stream").selectivity is None


def test_code_lengths_are_those_of_the_online_code() -> None:
    """By hand, with scikit-learn's probabilities, and between what theory allows."""
    (train, labels), (test, held_out) = planted(800, 0), planted(100, 1)
    result = fit_probes(train, labels, test, held_out)
    blind, seeing = result.score("block 0"), result.score("block 1")
    entropy = -float(np.log2(np.bincount(labels) / len(labels)) @ (np.bincount(labels) / len(labels)))
    assert seeing.uniform_bits == 2
    assert seeing.code_bits is not None
    assert blind.code_bits is not None
    assert seeing.shuffled_bits is not None
    assert seeing.code_bits < 0.4 < entropy < blind.code_bits
    assert entropy < seeing.shuffled_bits
    ends = sorted({max(1, round(share * len(labels))) for share in CODE_FRACTIONS})
    order = np.random.default_rng(0).permutation(len(labels))
    values, labels = StandardScaler().fit_transform(train["block 1"])[order], labels[order]
    bits = ends[0] * 2.0
    for start, stop in itertools.pairwise(ends):
        probabilities = np.zeros((stop - start, 4))
        if len(set(labels[:start])) == 1:
            probabilities[:, labels[0]] = 1
        else:
            oracle = LogisticRegression(max_iter=5000, tol=1e-6).fit(values[:start], labels[:start])
            probabilities[:, oracle.classes_] = oracle.predict_proba(values[start:stop])
        mixed = (1 - 1 / (start + 1)) * probabilities + 1 / (start + 1) / 4
        bits -= np.log2(mixed[np.arange(stop - start), labels[start:stop]]).sum()
    assert seeing.code_bits == pytest.approx(bits / len(labels), abs=0.01)


def test_a_code_is_as_long_however_rows_are_stored() -> None:
    """Sorted by their labels, the first half would be fitted on one class and say nothing of the other."""
    (train, labels), (test, held_out) = planted(400, 0), planted(50, 1)
    by_class = np.argsort(labels, kind="stable")
    sorted_ = {site: values[torch.from_numpy(by_class)] for site, values in train.items()}
    bits = [
        fit_probes(values, each, test, held_out).score("block 1").code_bits
        for values, each in ((train, labels), (sorted_, labels[by_class]))
    ]
    assert bits[1] == pytest.approx(bits[0], abs=0.15)


def test_mismatches_are_named() -> None:
    values, labels = planted(50, 0)
    with pytest.raises(ValueError, match=r"sites: .* expected the same"):
        fit_probes(values, labels, {"block 0": values["block 0"]}, labels)
    with pytest.raises(ValueError, match="test: 50 rows at block 0, but 49 labels"):
        fit_probes(values, labels, values, labels[:-1])
    with pytest.raises(ValueError, match=r"labels: \['x'\] to fit on, \['y'\] to test on"):
        fit_probes(values, {"x": labels}, values, {"y": labels})
    with pytest.raises(ValueError, match="types: 49 for test, expected 50"):
        fit_probes(values, labels, values, labels, types=(labels, labels[:-1]))
    with pytest.raises(ValueError, match="method: 'lasso', expected one of logistic, ridge, adamw"):
        fit_probes(values, labels, values, labels, method="lasso")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["logistic", "ridge", "adamw"])
def test_probes_that_are_worth_it_are_fitted_on_a_gpu(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), np.arange(60) % 3
    types = np.arange(60) % 7
    features[:, 0] += 2 * torch.from_numpy(labels)

    def fit(device: str) -> ProbingResult:
        site = {"site": features}
        return fit_probes(
            site, labels, site, labels, choose=(site, {ANSWER: labels}), types=(types, types), method=method,
            adamw_steps=20, device=device,
        )  # fmt: skip

    expected = fit("cpu")
    with simulated_gpu() as seen:
        found = fit("gpu")
        assert not seen.waits  # so few rows are fitted on the CPU
        monkeypatch.setattr(linear_classifiers, "WORTH_A_GPU", 0)
        found = fit("gpu")
        assert seen.waits
    assert found.rows() == expected.rows()
    assert found.probes["site", ANSWER].weight.device == torch.device("cpu")
