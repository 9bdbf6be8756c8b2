"""What linear classifiers tell of a prompt's safety: from which words stand where, and from pairs of letters."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.safety import LETTERS, PHRASES, TEXT_SLICE, SafetyConfig
from ftmech_hf.tasks.schema import Rows, RowStream


class LinearBaselines(NamedTuple):
    """Balanced accuracies (the mean over safe and unsafe; 0.5 is chance) of logistic regressions on other prompts.

    Attributes:
        kind_by_place: of a text's kind, from which letter stands where.
        kind_by_pairs: the same, from which letters follow which.
        prompt_by_place: of a prompt's safety, from which word stands where, operators too.
        prompt_by_pairs: the same, from operators with all pairs of neighbouring letters.
    """

    kind_by_place: float
    kind_by_pairs: float
    prompt_by_place: float
    prompt_by_pairs: float


def linear_baselines(*, seed: int = 0, num_rows: int = 4096) -> LinearBaselines:
    """Fit on rows of the probe split, report as many of the test split."""
    fitted, reported = (
        RowStream(SafetyConfig(mixture="tuning"), seed=seed, split=split).rows(0, num_rows)
        for split in ("probe", "test")
    )
    width, text, names = len(SafetyConfig.vocabulary), TEXT_SLICE, slice(1, 3)

    def places(rows: Rows, *at: slice) -> NDArray[np.bool_]:
        ids = np.concatenate([rows.token_ids[:, each] for each in at], 1)
        return np.eye(width, dtype=bool)[ids].reshape(len(rows), -1)

    def pairs(rows: Rows) -> NDArray[np.bool_]:
        letters = rows.token_ids[:, text]
        return np.eye(width**2, dtype=bool)[letters[:, :-1] * width + letters[:, 1:]].any(1)

    def everything(rows: Rows) -> NDArray[np.bool_]:
        return np.concatenate([places(rows, names), pairs(rows)], 1)

    kinds, unsafe = (_kind_of_text(fitted), _kind_of_text(reported)), (fitted.label, reported.label)
    return LinearBaselines(
        _balanced(places(fitted, text), places(reported, text), *kinds),
        _balanced(pairs(fitted), pairs(reported), *kinds),
        _balanced(places(fitted, names, text), places(reported, names, text), *unsafe),
        _balanced(everything(fitted), everything(reported), *unsafe),
    )


def _kind_of_text(rows: Rows) -> NDArray[np.int64]:
    """1 for texts that are written backwards: those without a pair of letters of the phrases as they stand."""
    letters = rows.token_ids[:, TEXT_SLICE] - SafetyConfig.vocabulary.index(LETTERS[0])
    forwards = np.zeros((len(LETTERS), len(LETTERS)), bool)
    for phrase in PHRASES:
        for pair in itertools.pairwise(phrase):
            forwards[LETTERS.index(pair[0]), LETTERS.index(pair[1])] = True
    found: NDArray[np.int64] = forwards[letters[:, :-1], letters[:, 1:]].sum(1)
    return (found == 0).astype(np.int64)


def _balanced(
    features: NDArray[np.bool_], others: NDArray[np.bool_], labels: NDArray[np.int64], truth: NDArray[np.int64]
) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    fit = LogisticRegression(max_iter=300).fit(features.astype(np.float32), labels)
    return float(balanced_accuracy_score(truth, fit.predict(others.astype(np.float32))))
