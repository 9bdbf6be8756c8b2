"""The pure functions that define the answers (Jain et al., arXiv 2311.12786, Table 1 and App. B.2).

Every operator takes texts, an integer array (B, T) of terminal ids, and returns one integer per text, (B,). ``operand``
is a terminal id (or one per text). "The end" is the last symbol of the text; a distance of 1 means the last symbol.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

NOT_FOUND = -1
"""Label of :func:`index` when the operand occurs too rarely."""


def count(text: NDArray[np.integer], operand: ArrayLike, window: int) -> NDArray[np.int64]:
    """How many of the last ``window`` symbols are the operand."""
    return (text[:, -window:] == np.expand_dims(operand, -1)).sum(axis=1)


def index(text: NDArray[np.integer], operand: ArrayLike, occurrence: int) -> NDArray[np.int64]:
    """Distance from the end of the ``occurrence``-th operand counted from the end, or :data:`NOT_FOUND`."""
    seen = np.cumsum(text[:, ::-1] == np.expand_dims(operand, -1), axis=1)
    distance = (seen < occurrence).sum(axis=1) + 1
    return np.where(distance <= text.shape[1], distance, NOT_FOUND)


def token_at(text: NDArray[np.integer], position: int) -> NDArray[np.int64]:
    """The terminal id ``position`` symbols from the end."""
    return text[:, -position].astype(np.int64)
