"""Is the answer linearly readable from the stream, and where? (Jain et al., arXiv 2311.12786, App. D.)

One multinomial logistic regression per layer, on the stream at the position that predicts the answer. Every probe is
fitted twice: on the labels, and on shuffled labels, which must come out at chance; an accuracy means little without it,
nor without the same probe on a model of random weights (which readings of a count from a frozen random network beat
chance by far).

Deviation: the paper trains its probes with 4,000 steps of AdamW; here scikit-learn minimises the same cross-entropy to
convergence, with its default L2 penalty, on standardised activations.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

MAX_NEWTON_PARAMETERS = 2_000


@dataclass(frozen=True)
class ProbingResult:
    """Accuracies of linear probes on held-out rows.

    Attributes:
        accuracy: site name -> accuracy of the probe.
        shuffled: site name -> accuracy of the same probe fitted on shuffled labels, mean over shuffles.
        majority: accuracy of always answering the most frequent training label.
        num_test: held-out rows.
    """

    accuracy: dict[str, float]
    shuffled: dict[str, float]
    majority: float
    num_test: int

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per site."""
        return [
            {"site": site, "accuracy": value, "shuffled": self.shuffled[site], "majority": self.majority}
            for site, value in self.accuracy.items()
        ]

    def best_site(self) -> str:
        """The site with the best accuracy; ties go to the first."""
        return max(self.accuracy, key=lambda site: self.accuracy[site])

    def summary(self) -> dict[str, Any]:
        """The best site and its accuracy."""
        best = self.best_site()
        return {
            "best_site": best,
            "accuracy": self.accuracy[best],
            "shuffled": self.shuffled[best],
            "majority": self.majority,
            "num_test": self.num_test,
        }


def _probe_accuracy(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    test: NDArray[np.floating],
    test_labels: NDArray[np.integer],
    max_iter: int,
) -> float:
    # Newton's method converges in about ten steps where L-BFGS takes hundreds, as long as its Hessian stays small.
    small = train.shape[1] * len(np.unique(train_labels)) <= MAX_NEWTON_PARAMETERS
    solver = "newton-cholesky" if small else "lbfgs"
    probe = make_pipeline(StandardScaler(), LogisticRegression(solver=solver, max_iter=max_iter))
    with warnings.catch_warnings():
        # Where classes are separable the optimum is far away, and the accuracy has settled long before. Where
        # activations do not vary (the embedding of "=") Newton's matrix is singular, and L-BFGS takes over.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)
        probe.fit(train, train_labels)
    return float(probe.score(test, test_labels))


def fit_probes(
    train: Mapping[str, Tensor],
    train_labels: NDArray[np.integer],
    test: Mapping[str, Tensor],
    test_labels: NDArray[np.integer],
    *,
    seed: int = 0,
    num_shuffles: int = 2,
    max_iter: int = 200,
) -> ProbingResult:
    """Fit and test one probe per site, and its shuffled-label control.

    Args:
        train, test: site name -> activations (B, D); the same sites in both.
        train_labels, test_labels: integers (B,).
        seed: of the shuffling.
        num_shuffles: how often the control is fitted. One shuffle is noisy: where rows fall into tight clusters, whole
            clusters are right or wrong together.
        max_iter: of L-BFGS.

    Raises:
        ValueError: the two have different sites, or numbers of rows and labels differ.
    """
    if list(train) != list(test):
        raise ValueError(f"sites: {list(train)} to fit on, {list(test)} to test on; expected the same")
    for name, activations, labels in (("train", train, train_labels), ("test", test, test_labels)):
        for site, values in activations.items():
            if len(values) != len(labels):
                raise ValueError(f"{name}: {len(values)} rows at {site}, but {len(labels)} labels")
    shuffles = [np.random.default_rng([seed, number]).permutation(train_labels) for number in range(num_shuffles)]
    accuracy, shuffled = {}, {}
    for site in train:
        fit_on, test_on = train[site].numpy(), test[site].numpy()
        accuracy[site] = _probe_accuracy(fit_on, train_labels, test_on, test_labels, max_iter)
        chance = [_probe_accuracy(fit_on, labels, test_on, test_labels, max_iter) for labels in shuffles]
        shuffled[site] = float(np.mean(chance))
    most_frequent = np.bincount(train_labels - train_labels.min()).argmax() + train_labels.min()
    return ProbingResult(accuracy, shuffled, float((test_labels == most_frequent).mean()), len(test_labels))
