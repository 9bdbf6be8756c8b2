"""Is the answer linearly readable from the stream, and where? (Jain et al., arXiv 2311.12786, App. D.)

One linear classifier per site and kind of label, on the stream at a position of a row. An accuracy means little alone,
so beside each stand, fitted in the same pass:

- shuffled labels, which must come out at chance;
- a control task (Hewitt & Liang, arXiv 1909.03368): labels drawn at random for *types* of rows, that only a probe which
  memorises can get right; accuracy less that of the control task is the probe's selectivity;
- the code length of the labels given the activations (Voita & Titov, arXiv 2003.12298, online code): how much, not only
  whether, the activations say about the labels, and with how many examples.

Which model to compare with is up to the caller: a frozen random network is read far above chance, too.

Deviation: the paper trains its probes with 4,000 steps of AdamW (here the method ``adamw``); by default the same
cross-entropy is minimised to convergence, with scikit-learn's default L2 penalty, on standardised activations.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.statistics.adamw import fit_adamw
from ftmech_hf.statistics.control_labels import ControlledLabels, Labels, add_controls
from ftmech_hf.statistics.intervals import share_interval
from ftmech_hf.statistics.linear_classifiers import LinearFit, Scaling, fitting_device
from ftmech_hf.statistics.logistic import fit_logistic
from ftmech_hf.statistics.online_code import code_lengths
from ftmech_hf.statistics.ridge import fit_ridge

Method = Literal["logistic", "ridge", "adamw"]
ANSWER = "answer"


class LinearProbe(NamedTuple):
    """A fitted probe of C labels, to be applied to activations (B, D) as they are in the model.

    Attributes:
        weight: (C, D).
        bias: (C,).
        classes: the labels, (C,).
    """

    weight: Tensor
    bias: Tensor
    classes: Tensor

    def logits(self, activations: Tensor) -> Tensor:
        """Scores (B, C) of activations (B, D)."""
        return F.linear(activations.to(self.weight.dtype), self.weight, self.bias)

    def predict(self, activations: Tensor) -> Tensor:
        """Labels (B,) of activations (B, D)."""
        return self.classes[self.logits(activations).argmax(-1)]


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """How well one kind of label can be read from one site, on held-out rows.

    Attributes:
        site, label: what was read where.
        accuracy, low, high: of the probe, with its 95 % Wilson interval.
        shuffled: the same probe fitted on shuffled labels, mean over shuffles.
        control_task: accuracy on the control task, mean over draws; None without types of rows.
        selectivity: ``accuracy - control_task``.
        majority: accuracy of always answering the most frequent training label.
        code_bits: bits per training row to send its label, given the activations (online code).
        uniform_bits: the same where nothing is known of the labels, log2 of the number of classes.
        shuffled_bits: ``code_bits`` for shuffled labels, the baseline: about the entropy of the labels, which is below
            ``uniform_bits`` where some are more frequent than others.
        converged: whether the fit met its tolerance.
        num_test: held-out rows.
        chosen: accuracy on the rows that choose a site; None if there are none.
    """

    site: str
    label: str
    accuracy: float
    low: float
    high: float
    shuffled: float
    control_task: float | None
    selectivity: float | None
    majority: float
    code_bits: float | None
    uniform_bits: float
    shuffled_bits: float | None
    converged: bool
    num_test: int
    chosen: float | None = None


@dataclass(frozen=True)
class ProbingResult:
    """Scores of linear probes, and the probes.

    Attributes:
        scores: one per site and label, sites outermost.
        probes: (site, label) -> the probe.
        right: (site, label) -> whether the probe reads each held-out row right, bool (B,).
    """

    scores: tuple[ProbeScore, ...]
    probes: dict[tuple[str, str], LinearProbe]
    right: dict[tuple[str, str], NDArray[np.bool_]] = field(default_factory=dict, repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row per site and label."""
        return [asdict(score) for score in self.scores]

    def score(self, site: str, label: str | None = None) -> ProbeScore:
        """The score of a site, for the first label if none is named."""
        label = label or self.scores[0].label
        return next(each for each in self.scores if (each.site, each.label) == (site, label))

    def best(self, label: str | None = None) -> ProbeScore:
        """The site with the best accuracy on the rows that choose, or on those that are reported if there are none.

        Ties go to the first. The best of several accuracies is too high for the rows that it was found on.
        """
        label = label or self.scores[0].label
        return max(
            (each for each in self.scores if each.label == label),
            key=lambda each: each.accuracy if each.chosen is None else each.chosen,
        )

    def summary(self) -> dict[str, Any]:
        """The best site of the first label, its accuracy and its controls."""
        best = asdict(self.best())
        return {"best_site": best.pop("site"), **best}


def fit_probes(
    train: Mapping[str, Tensor],
    train_labels: Labels | Mapping[str, Labels],
    test: Mapping[str, Tensor],
    test_labels: Labels | Mapping[str, Labels],
    *,
    choose: tuple[Mapping[str, Tensor], Mapping[str, Labels]] | None = None,
    types: tuple[Labels, Labels] | None = None,
    method: Method = "logistic",
    seed: int = 0,
    num_shuffles: int = 2,
    num_tasks: int = 2,
    code: bool = True,
    l2: float = 1.0,
    adamw_steps: int = 4000,
    device: torch.device | str = "cpu",
) -> ProbingResult:
    """Fit and test probes of all labels at all sites, with their controls.

    All that is fitted at a site is fitted at once; one site is in memory at a time, if the mapping loads it on request.

    Args:
        train, test: site name -> activations (B, D); the same sites in both.
        train_labels, test_labels: integers (B,), or kind of label -> integers.
        choose: activations and labels, by the same names, of other rows, on which the best site is chosen.
        types: numbers of the types of the training and the test rows, from 0, for the control task.
        method: ``logistic``, ``ridge`` (one-hot labels) or ``adamw`` (the paper's recipe, on activations as they are).
        seed: of shuffles, control tasks and the batches of AdamW.
        num_shuffles, num_tasks: how often each control is drawn. One draw is noisy: clusters of rows go together.
        code: whether to compute code lengths, by ten more fits on growing parts; for ``logistic`` only.
        l2: the penalty, for ``logistic`` and ``ridge``.
        adamw_steps: the length of the paper's recipe, for ``adamw``.
        device: where probes are fitted if they are large enough, such as a model's; all results are on the CPU.

    Raises:
        ValueError: the two have different sites or labels, or numbers of rows and labels differ.
    """
    labels, held_out = _by_kind(train_labels), _by_kind(test_labels)
    _check(train, labels, test, held_out, types, method)
    draws = functools.partial(add_controls, types=types, num_shuffles=num_shuffles, num_tasks=num_tasks)
    groups = [draws(labels[name], held_out[name], key=[seed, number]) for number, name in enumerate(labels)]
    fit = functools.partial(_fit, method=method, l2=l2, seed=seed, steps=adamw_steps)
    scores: list[ProbeScore] = []
    probes: dict[tuple[str, str], LinearProbe] = {}
    right: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for site in train:
        features, tested = _placed(train[site], test[site], groups, torch.device(device))
        scaling = Scaling.of(features, standardize=method != "adamw")
        features, tested = scaling.apply(features), scaling.apply(tested)
        bits: Sequence[NDArray[np.float64] | None] = [None] * len(groups)
        if code and method == "logistic":
            bits = code_lengths(features, groups, fit, seed=seed)
        for name, each, fitted, length in zip(labels, groups, fit(features, groups), bits, strict=True):
            right[site, name], score = _score(site, name, each, fitted, tested, length)
            probes[site, name] = _probe_of(fitted, scaling, each.classes)
            scores.append(score if choose is None else _choose(score, probes[site, name], choose))
    return ProbingResult(tuple(scores), probes, right)


def _placed(train: Tensor, test: Tensor, groups: list[ControlledLabels], device: torch.device) -> tuple[Tensor, Tensor]:
    """Features in float32 where they are fitted."""
    number = sum(len(each.train) for each in groups) * max(len(each.classes) for each in groups)
    where = fitting_device(device, train.numel() * number)
    return train.to(where, torch.float32), test.to(where, torch.float32)


def _probe_of(fitted: LinearFit, scaling: Scaling, classes: Tensor) -> LinearProbe:
    weight, bias = scaling.undo(fitted, len(classes))
    return LinearProbe(weight.cpu(), bias.cpu(), classes)


def _choose(
    score: ProbeScore, probe: LinearProbe, rows: tuple[Mapping[str, Tensor], Mapping[str, Labels]]
) -> ProbeScore:
    right = probe.predict(rows[0][score.site].cpu()) == torch.as_tensor(rows[1][score.label])
    return dataclasses.replace(score, chosen=float(right.double().mean()))


def _by_kind(labels: Labels | Mapping[str, Labels]) -> dict[str, Labels]:
    return dict(labels) if isinstance(labels, Mapping) else {ANSWER: labels}


def _check(
    train: Mapping[str, Tensor],
    labels: Mapping[str, Labels],
    test: Mapping[str, Tensor],
    held_out: Mapping[str, Labels],
    types: tuple[Labels, Labels] | None,
    method: str,
) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method: {method!r}, expected one of {', '.join(get_args(Method))}")
    if list(train) != list(test) or not train:
        raise ValueError(f"sites: {list(train)} to fit on, {list(test)} to test on; expected the same")
    if list(labels) != list(held_out) or not labels:
        raise ValueError(f"labels: {list(labels)} to fit on, {list(held_out)} to test on; expected the same")
    for place, (name, activations, given) in enumerate((("train", train, labels), ("test", test, held_out))):
        for site, values in activations.items():
            for kind, each in given.items():
                if len(values) != len(each):
                    of = "" if kind == ANSWER else f" of {kind}"
                    raise ValueError(f"{name}: {len(values)} rows at {site}, but {len(each)} labels{of}")
            if types is not None and len(types[place]) != len(values):
                raise ValueError(f"types: {len(types[place])} for {name}, expected {len(values)}")


def _fit(
    features: Tensor,
    groups: Sequence[ControlledLabels],
    rows: int | None = None,
    *,
    method: Method,
    l2: float,
    seed: int,
    steps: int,
) -> list[LinearFit]:
    """Fit all kinds of label and their controls at once, on the first ``rows`` rows."""
    number = max(len(each.classes) for each in groups)
    stacked = torch.cat([each.train[:, :rows] for each in groups]).to(features.device)
    if method == "logistic":
        fitted = fit_logistic(features[:rows], stacked, number, l2=l2)
    elif method == "ridge":
        fitted = fit_ridge(features[:rows], stacked, number, l2=l2)
    else:
        fitted = fit_adamw(features[:rows], stacked, number, seed=seed, steps=steps)
    parts = [part.split([len(each.train) for each in groups]) for part in fitted]
    return [LinearFit(*each) for each in zip(*parts, strict=True)]


def _score(
    site: str,
    label: str,
    labels: ControlledLabels,
    fitted: LinearFit,
    tested: Tensor,
    bits: NDArray[np.float64] | None,
) -> tuple[NDArray[np.bool_], ProbeScore]:
    right = fitted.logits(tested).argmax(-1).cpu() == labels.test
    accuracy = np.array(right.double().mean(1).tolist())
    share = share_interval(int(right[0].sum()), right.shape[1])
    shuffled, control = accuracy[labels.shuffles], accuracy[labels.tasks]
    control_task = float(control.mean()) if len(control) else None
    return right[0].numpy(), ProbeScore(
        site=site,
        label=label,
        accuracy=share.value,
        low=share.low,
        high=share.high,
        shuffled=float(shuffled.mean()) if len(shuffled) else float("nan"),
        control_task=control_task,
        selectivity=None if control_task is None else share.value - control_task,
        majority=labels.majority,
        code_bits=None if bits is None else float(bits[0]),
        uniform_bits=float(np.log2(len(labels.classes))),
        shuffled_bits=None if bits is None or not labels.num_shuffles else float(bits[labels.shuffles].mean()),
        converged=bool(fitted.converged[0]),
        num_test=right.shape[1],
    )
