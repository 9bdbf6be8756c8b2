"""Labels to compare an accuracy with: shuffled ones, and those of control tasks (Hewitt & Liang, arXiv 1909.03368)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.integer]


class ControlledLabels(NamedTuple):
    """One kind of label of training rows (N) and held-out rows (B), with its controls, P in all.

    The first row of ``train`` and ``test`` is the label itself, then come the shuffles, then the control tasks.

    Attributes:
        classes: the values that training labels have, (C,).
        train: class numbers, (P, N).
        test: class numbers, (P, B); -1 for a label that no training row has.
        num_shuffles: how many of the controls are shuffles.
        majority: the share of held-out rows whose label is the most frequent one of training.
    """

    classes: Tensor
    train: Tensor
    test: Tensor
    num_shuffles: int
    majority: float

    @property
    def shuffles(self) -> slice:
        """Where shuffled labels are among the P."""
        return slice(1, 1 + self.num_shuffles)

    @property
    def tasks(self) -> slice:
        """Where control tasks are among the P."""
        return slice(1 + self.num_shuffles, None)


def add_controls(
    train: Labels,
    test: Labels,
    types: tuple[Labels, Labels] | None,
    *,
    num_shuffles: int,
    num_tasks: int,
    key: list[int],
) -> ControlledLabels:
    """Put controls beside labels.

    A shuffle has the labels of training in another order, and is tested on the labels as they are. A control task draws
    a label at random for every *type* of row, from the distribution of the training labels, and is tested on the same.

    Args:
        train, test: integers (N,) and (B,).
        types: numbers of the types of the rows of both, from 0; without them there are no control tasks.
        num_shuffles, num_tasks: how often each control is drawn.
        key: seed of the draws.
    """
    classes, encoded = np.unique(train, return_inverse=True)
    number = {value: place for place, value in enumerate(classes.tolist())}
    held_out = np.array([number.get(value, -1) for value in test.tolist()])
    fit_on, test_on = [encoded], [held_out]
    for draw in range(num_shuffles):
        fit_on.append(np.random.default_rng([*key, 0, draw]).permutation(encoded))
        test_on.append(held_out)
    for draw in range(num_tasks if types else 0):
        assert types is not None
        size = 1 + max(each.max() for each in types)
        table = np.random.default_rng([*key, 1, draw]).choice(encoded, size=size)
        fit_on.append(table[types[0]])
        test_on.append(table[types[1]])
    most_frequent = np.bincount(encoded).argmax()
    return ControlledLabels(
        classes=torch.from_numpy(classes),
        train=torch.from_numpy(np.stack(fit_on)),
        test=torch.from_numpy(np.stack(test_on)),
        num_shuffles=num_shuffles,
        majority=float((held_out == most_frequent).mean()),
    )
