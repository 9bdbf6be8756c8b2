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


MOST_AT_A_TIME = 2**24
"""Numbers of a table of places by tokens: of many places few tokens are looked at at a time."""


def _by_row(values: Tensor, row: Tensor) -> Tensor:
    """Sums over the places of each row, (rows, V), of values (places, V)."""
    return torch.zeros(int(row.max()) + 1, values.shape[1], dtype=values.dtype).index_add_(0, row, values)


def _of_side(count: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of places by row (rows, V) and the sum of their KL: its mean (V,), what each row adds to its error, and how many
    rows have any (V,).
    """
    number = count.sum(0).clamp(min=1)
    mean = total.sum(0) / number
    return mean, (total - mean * count) / number, (count > 0).sum(0)


def find_context(kl: Tensor, places: tuple[Tensor, Tensor], token_ids: Tensor) -> Context | None:
    """The token whose presence anywhere before them best sets apart where in a group of places the models differ.

    Args:
        kl: of the two models at every place, nats, (N, T - 1).
        places: row and number of every place of the group, (places,) each.
        token_ids: the rows that they are of, (N, T).

    Returns:
        the token with the clearest higher mean; None if none is clear, see :data:`CLEAR`.
    """
    if not len(places[0]):
        return None
    ids, index = token_ids.unique(return_inverse=True)
    number, width = token_ids.shape
    # Which tokens stand in enough rows, and where in each row first: of all others nothing could be said.
    pairs, of_pair = (torch.arange(number)[:, None] * len(ids) + index).flatten().unique(return_inverse=True)
    first = torch.full((len(pairs),), width).scatter_reduce_(0, of_pair, torch.arange(width).repeat(number), "amin")
    in_row, token = pairs // len(ids), pairs % len(ids)
    frequent = (torch.bincount(token, minlength=len(ids)) >= LEAST_ROWS).nonzero()[:, 0]
    values = kl[places].double()
    found = list[tuple[float, Context]]()
    for chosen in frequent.split(max(1, MOST_AT_A_TIME // len(values))) if len(frequent) else ():
        column = torch.full((len(ids),), -1)
        column[chosen] = torch.arange(len(chosen))
        here = column[token] >= 0
        begin = torch.full((number, len(chosen)), width)
        begin[in_row[here], column[token[here]]] = first[here]
        clear, present, absent = _clearness(values, places, begin)
        best = int(clear.argmax())
        if clear[best] > 1:
            found.append(
                (float(clear[best]), Context(int(ids[chosen[best]]), float(present[best]), float(absent[best])))
            )
    return max(found, key=lambda each: each[0])[1] if found else None


def _clearness(values: Tensor, places: tuple[Tensor, Tensor], first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How clearly places that have a token before them have a higher mean, and the means of those with and without it.

    Args:
        values: KL of every place, (places,).
        places: row and number of each.
        first: where in a row each token stands first, (N, V); beyond the row where it does not stand in it.

    Returns:
        of every token its difference of means over the one that is clear, and the two means, (V,) each.
    """
    from scipy.special import ndtr, stdtrit

    row, last = places
    having = (first[row] <= last[:, None]).double()
    count, total = _by_row(having, row), _by_row(having * values[:, None], row)
    others = _by_row(torch.ones_like(values[:, None]), row) - count
    other_total = _by_row(values[:, None], row) - total
    (present, part, rows), (absent, other_part, other_rows) = _of_side(count, total), _of_side(others, other_total)
    error = (part - other_part).square().sum(0).sqrt().clamp(min=1e-12)
    fewest = torch.minimum(rows, other_rows)
    # Of few rows errors are themselves not sure: as many of them as are as rare, by Student's t.
    bar = torch.from_numpy(stdtrit(np.maximum(fewest.numpy() - 1, 1), ndtr(CLEAR)))
    return torch.where(fewest >= LEAST_ROWS, (present - absent) / error / bar, -torch.inf), present, absent
