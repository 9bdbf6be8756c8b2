"""The pure functions that define the answers (Jain et al., arXiv 2311.12786, Table 1 and App. B.2).

Every function takes texts, an integer array (B, T) of terminal ids, and returns one integer per text, (B,). ``operand``
is a terminal id (or one per text). "The end" is the last symbol of the text; a distance of 1 means the last symbol.

A *pair* is an operand twice in a row (``aa``). Pairs may overlap: ``aaa`` holds two. A pair counts where its second
symbol stands, and both of its symbols must lie in the window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

NOT_FOUND = -1
"""Label of :func:`index` and :func:`index_pair` when there are too few occurrences."""

Texts = NDArray[np.integer]


def count(text: Texts, operand: ArrayLike, window: int) -> NDArray[np.int64]:
    """How many of the last ``window`` symbols are the operand."""
    return (text[:, -window:] == np.expand_dims(operand, -1)).sum(axis=1)


def count_pair(text: Texts, operand: ArrayLike, window: int) -> NDArray[np.int64]:
    """How many pairs of the operand lie within the last ``window`` symbols."""
    return _pairs(text[:, -window:], operand).sum(axis=1)


def index(text: Texts, operand: ArrayLike, occurrence: int) -> NDArray[np.int64]:
    """Distance from the end of the ``occurrence``-th operand counted from the end, or :data:`NOT_FOUND`."""
    return _distance(text == np.expand_dims(operand, -1), occurrence)


def index_pair(text: Texts, operand: ArrayLike, occurrence: int) -> NDArray[np.int64]:
    """Distance from the end of the ``occurrence``-th pair counted from the end, or :data:`NOT_FOUND`."""
    return _distance(_pairs(text, operand), occurrence)


def token_at(text: Texts, position: int) -> NDArray[np.int64]:
    """The terminal id ``position`` symbols from the end."""
    return text[:, -position].astype(np.int64)


def ranked(text: Texts, rank: int) -> NDArray[np.int64]:
    """The terminal id that is ``rank``-th smallest in the text, 1 for the smallest (App. B.1, Alg. 2)."""
    return np.sort(text, axis=1)[:, rank - 1].astype(np.int64)


def _pairs(text: Texts, operand: ArrayLike) -> NDArray[np.bool_]:
    """Where the second symbols of pairs stand; the first place of a text can hold none and is left out."""
    hit = text == np.expand_dims(operand, -1)
    return hit[:, 1:] & hit[:, :-1]


def _distance(hit: NDArray[np.bool_], occurrence: int) -> NDArray[np.int64]:
    seen = np.cumsum(hit[:, ::-1], axis=1, dtype=np.int16)
    distance = (seen < occurrence).sum(axis=1) + 1
    return np.where(distance <= hit.shape[1], distance, NOT_FOUND)
