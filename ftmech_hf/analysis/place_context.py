"""What stands before the places at which two models differ most? One token that sets some of a group's places apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LEAST_ROWS, CLEAR = 10, 4.0
"""Rows in which a token must stand before places, and not before places, to be named; and by how many standard errors
of rows, whose places are alike, their means must differ: it leaves thousands of tokens that mean nothing unnamed."""


class Context(NamedTuple):
    """A token that sets apart places of one group.

    Attributes:
        token: its id.
        present, absent: mean KL at places that have it somewhere before them, and at those that have not, nats.
    """

    token: int
    present: float
    absent: float


def _by_row(values: Tensor, row: Tensor) -> Tensor:
    """Sums over the places of each row, (rows, V), of values (places, V)."""
    return torch.zeros(int(row.max()) + 1, values.shape[1], dtype=values.dtype).index_add_(0, row, values)


def find_context(kl: Tensor, places: tuple[Tensor, Tensor], token_ids: Tensor) -> Context | None:
    """The token whose presence anywhere before them best sets apart where in a group of places the models differ.

    Args:
        kl: of the two models at every place, nats, (N, T - 1).
        places: row and number of every place of the group, (places,) each.
        token_ids: the rows that they are of, (N, T).

    Returns:
        the token with the clearest higher mean; None if none is clear, see :data:`CLEAR`.
    """
    from scipy.special import ndtr, stdtrit

    row, last = places
    values = kl[row, last].double()
    ids, index = token_ids.unique(return_inverse=True)
    first = torch.full((len(token_ids), len(ids)), token_ids.shape[1])  # where in a row each token stands first
    first.scatter_reduce_(1, index, torch.arange(token_ids.shape[1]).expand_as(index), "amin")
    having = (first[row] <= last[:, None]).double()
    present = having.sum(0)
    absent = len(row) - present
    means = [each.T @ values / of.clamp(min=1) for each, of in ((having, present), (1 - having, absent))]
    each_side = ((having, means[0], present, 1.0), (1 - having, means[1], absent, -1.0))
    parts = [sign * side * (values[:, None] - mean) / of.clamp(min=1) for side, mean, of, sign in each_side]
    error = _by_row(parts[0] + parts[1], row).square().sum(0).sqrt().clamp(min=1e-12)
    rows = [(_by_row(side, row) > 0).sum(0) for side, *_ in each_side]
    enough = (rows[0] >= LEAST_ROWS) & (rows[1] >= LEAST_ROWS)
    # Of few rows errors are themselves not sure: as many of them as are as rare, by Student's t.
    bar = torch.from_numpy(stdtrit(np.maximum(torch.minimum(*rows).numpy() - 1, 1), ndtr(CLEAR)))
    clear = torch.where(enough, (means[0] - means[1]) / error / bar, -torch.inf)
    best = int(clear.argmax())
    if clear[best] <= 1:
        return None
    return Context(int(ids[best]), float(means[0][best]), float(means[1][best]))
