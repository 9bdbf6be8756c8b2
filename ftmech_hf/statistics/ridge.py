"""Ridge regressions on one-hot labels, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ftmech_hf.statistics.linear_classifiers import LinearFit, check_l2, check_rows, join_fits, label_groups


def fit_ridge(features: Tensor, labels: Tensor, num_classes: int, *, l2: float = 1.0) -> LinearFit:
    """Ridge regressions on one-hot labels, in closed form: one factorisation for all classifiers.

    Args:
        features: (N, D).
        labels: class numbers (P, N).
        num_classes: C.
        l2: the penalty, scikit-learn's ``RidgeClassifier(alpha=l2)``.

    Raises:
        ValueError: what :func:`check_rows` refuses, or a penalty of 0 where rows do not fix the weights.
    """
    check_rows(features, labels, num_classes)
    check_l2(l2)
    center = features.double().mean(0)
    centered = features.double() - center
    gram = centered.T @ centered + l2 * torch.eye(features.shape[1], dtype=torch.float64, device=features.device)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        raise ValueError(
            f"l2: {l2} is too little for {len(features)} rows of {features.shape[1]} features, expected more"
        )
    fits = []
    for group in label_groups(labels, num_classes):
        targets = F.one_hot(group, num_classes).double()
        mean = targets.mean(1)
        products = torch.einsum("nd,pnc->dpc", centered, targets - mean[:, None])
        weight = torch.cholesky_solve(products.flatten(1), factor).view_as(products).transpose(0, 1)
        bias = mean - torch.einsum("d,pdc->pc", center, weight)
        bias = torch.where(mean > 0, bias, -torch.inf)
        done = torch.ones(len(group), dtype=torch.long)
        fits.append(LinearFit(weight.float(), bias.float(), done, done.bool()))
    return join_fits(fits)
