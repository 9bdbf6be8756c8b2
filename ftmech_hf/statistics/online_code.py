"""How many bits it takes to send labels, given features: the online code (Voita & Titov, arXiv 2003.12298)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.statistics.control_labels import ControlledLabels
from ftmech_hf.statistics.linear_classifiers import LinearFit

CODE_FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Shares of the rows after which the code fits a new classifier (App. B of the paper)."""


def code_lengths(
    features: Tensor,
    groups: Sequence[ControlledLabels],
    fit: Callable[[Tensor, Sequence[ControlledLabels], int], Sequence[LinearFit]],
    *,
    seed: int,
) -> list[NDArray[np.float64]]:
    """Bits per row of the online code, (P,) for each group of classifiers.

    Rows are sent in an order by chance, as that in which they are stored may give their labels away. The labels of the
    first block are sent by a uniform code, those of each next one by the classifier fitted on all before. Deviation: a
    little of the uniform code is mixed into each classifier's, because a class that it has not seen yet would cost
    infinitely many bits.

    Args:
        features: (N, D).
        groups: of labels.
        fit: (features, groups, number of rows) -> each group's classifiers, fitted on so many first rows.
        seed: of the order.
    """
    total = len(features)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(total))
    features, sent = features[order], [each._replace(train=each.train[:, order]) for each in groups]
    ends = sorted({max(1, round(share * total)) for share in CODE_FRACTIONS})
    bits = [np.full(len(each.train), ends[0] * np.log2(len(each.classes))) for each in sent]
    for start, stop in itertools.pairwise(ends):
        block = features[start:stop]
        for place, (each, fitted) in enumerate(zip(sent, fit(features, sent, start), strict=True)):
            labels = each.train[:, start:stop, None].to(features.device)
            probabilities = fitted.logits(block).softmax(-1).gather(-1, labels)[..., 0]
            share = 1 / (start + 1)
            mixed = (1 - share) * probabilities.double() + share / len(each.classes)
            bits[place] -= mixed.log2().sum(1).cpu().numpy()
    return [each / total for each in bits]
