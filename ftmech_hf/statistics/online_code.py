"""How many bits it takes to send labels, given features: the online code (Voita & Titov, arXiv 2003.12298)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.statistics.linear_classifiers import LinearFit

CODE_FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Shares of the rows after which the code fits a new classifier (App. B of the paper)."""


def code_lengths(
    features: Tensor,
    labels: Sequence[Tensor],
    num_classes: Sequence[int],
    fit: Callable[[int], Sequence[LinearFit]],
) -> list[NDArray[np.float64]]:
    """Bits per row of the online code, (P,) for each group of classifiers.

    The labels of the first block are sent by a uniform code, those of each next one by the classifier fitted on all
    before. Deviation: a little of the uniform code is mixed into each classifier's, because a class that it has not
    seen yet would cost infinitely many bits.

    Args:
        features: (N, D), in an order by chance: of rows that are sorted by their labels it is no code of the features.
        labels: class numbers (P, N) of each group.
        num_classes: of each group.
        fit: number of rows -> each group's classifiers, fitted on so many first rows.
    """
    total = len(features)
    ends = sorted({max(1, round(share * total)) for share in CODE_FRACTIONS})
    bits = [np.full(len(each), ends[0] * np.log2(size)) for each, size in zip(labels, num_classes, strict=True)]
    for start, stop in itertools.pairwise(ends):
        block = features[start:stop]
        for place, (each, fitted) in enumerate(zip(labels, fit(start), strict=True)):
            sent = each[:, start:stop, None].to(features.device)
            probabilities = fitted.logits(block).softmax(-1).gather(-1, sent)[..., 0]
            share = 1 / (start + 1)
            mixed = (1 - share) * probabilities.double() + share / num_classes[place]
            bits[place] -= mixed.log2().sum(1).cpu().numpy()
    return [each / total for each in bits]
