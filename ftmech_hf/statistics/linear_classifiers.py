"""What all estimators of linear classifiers have in common: many are fitted to the same rows at once.

The classifiers differ in their labels alone (other questions, shuffled labels, other seeds), so that the logits of all
of them are one matrix product. The estimators are :mod:`ftmech_hf.statistics.logistic`,
:mod:`ftmech_hf.statistics.ridge` and :mod:`ftmech_hf.statistics.adamw`. Shapes: N rows, D features, P classifiers, C
classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MAX_LOGITS = 2**23
"""Logits in memory at once (32 MB); more classifiers are fitted group after group."""

WORTH_A_GPU = 2 * 10**8
"""Multiplications of a pass over all rows below which a core is faster than a GPU, which is waited for many times."""


class LinearFit(NamedTuple):
    """P fitted classifiers of C classes, for rows of D features.

    Attributes:
        weight: (P, D, C).
        bias: (P, C); minus infinity where a class never occurred, and so is never answered.
        steps: optimizer steps that each took, (P,).
        converged: whether each met its tolerance, (P,).
    """

    weight: Tensor
    bias: Tensor
    steps: Tensor
    converged: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Scores (P, N, C) of rows (N, D)."""
        return torch.einsum("nd,pdc->pnc", features, self.weight) + self.bias[:, None]


def check_rows(features: Tensor, labels: Tensor, num_classes: int) -> None:
    """Make sure that rows can be fitted: numbers that are numbers, and a class for every row.

    Rows may be fewer than classes, and all of one class, which is then always answered.

    Raises:
        ValueError: they cannot; says which of them is wrong.
    """
    if features.ndim != 2 or not features.is_floating_point():
        shape, kind = tuple(features.shape), str(features.dtype).removeprefix("torch.")
        raise ValueError(f"features: {kind} of shape {shape}, expected floating-point numbers (rows, width)")
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        shape, kind = tuple(labels.shape), str(labels.dtype).removeprefix("torch.")
        raise ValueError(f"labels: {kind} of shape {shape}, expected whole numbers (classifiers, rows)")
    if labels.shape[1] != len(features) or not labels.numel():
        raise ValueError(f"labels: {tuple(labels.shape)}, expected one for each of {len(features)} rows, and a row")
    if not bool(torch.isfinite(features).all()):
        wrong = int((~torch.isfinite(features)).any(1).sum())
        raise ValueError(f"features: {wrong} of {len(features)} rows hold nan or infinity, expected finite numbers")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        least, most = int(labels.min()), int(labels.max())
        raise ValueError(f"labels: from {least} to {most}, expected class numbers from 0 to {num_classes - 1}")


def fitting_device(device: torch.device, multiplications: int) -> torch.device:
    """Where classifiers are fitted that may be fitted on a device.

    Args:
        device: such as the one of a model; not used without float64, of which the solvers' small matrices are.
        multiplications: of a pass over all rows: rows times features times logits.
    """
    able = device.type != "mps" and multiplications >= WORTH_A_GPU
    return device if able else torch.device("cpu")


def check_l2(l2: float) -> None:
    """Raises ValueError for a penalty that is none."""
    if not 0 <= l2 < math.inf:
        raise ValueError(f"l2: {l2}, expected a number of 0 or more")


def label_groups(labels: Tensor, num_classes: int) -> Iterator[Tensor]:
    """Labels (P, N) in groups whose logits fit into :data:`MAX_LOGITS`."""
    return iter(labels.split(max(1, MAX_LOGITS // (labels.shape[1] * num_classes))))


def join_fits(fits: list[LinearFit]) -> LinearFit:
    """The fits of several groups of classifiers as one."""
    return LinearFit(*(torch.cat(parts) for parts in zip(*fits, strict=True)))


def class_priors(labels: Tensor, num_classes: int) -> Tensor:
    """Frequency of each class in labels (P, N), (P, C)."""
    counts = torch.zeros(len(labels), num_classes, device=labels.device)
    counts.scatter_add_(1, labels, torch.ones_like(labels, dtype=torch.float32))
    return counts / labels.shape[1]


class Scaling(NamedTuple):
    """How features are shifted and scaled before they are fitted: ``(features - center) / scale``, each (D,)."""

    center: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor, *, standardize: bool) -> Scaling:
        """To mean 0 and standard deviation 1, where a feature varies; without ``standardize`` none.

        What varies by less than a millionth of the largest number is rounding, which nobody could read.
        """
        center, scale = torch.zeros_like(features[0]), torch.ones_like(features[0])
        if standardize:
            center, spread = features.mean(0), features.std(0, correction=0)
            scale = torch.where(spread > 1e-6 * features.abs().max().clamp(min=1e-3), spread, 1.0)
        return cls(center, scale)

    def apply(self, features: Tensor) -> Tensor:
        """Features (B, D), shifted and scaled."""
        return (features - self.center) / self.scale

    def undo(self, fitted: LinearFit, classes: int) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the first fitted classifier, for features as they were."""
        weight = (fitted.weight[0] / self.scale[:, None]).T[:classes].contiguous()
        return weight, fitted.bias[0, :classes] - weight @ self.center
