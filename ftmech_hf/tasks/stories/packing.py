"""Documents of different lengths in rows of one length, as many of them whole as can be."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Put documents into as few rows as best-fit-decreasing finds.

    The longest document comes first, each into the fullest row that it fits in.

    Args:
        lengths: of the documents; none longer than a row.
        row_length: tokens in a row.

    Returns:
        the documents of every row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free places, row), sorted
    for number in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        place = bisect_left(free, (lengths[number], -1))
        if place < len(free):
            left, row = free.pop(place)
        else:
            left, row = row_length, len(rows)
            rows.append([])
        rows[row].append(number)
        insort(free, (left - lengths[number], row))
    return rows


def pack_rows(documents: Sequence[Sequence[int]], *, num_rows: int, row_length: int, pad: int) -> NDArray[np.int64]:
    """Fill rows (num_rows, row_length) with the first documents, as many as fit whole.

    Which documents these are does not depend on which would fit best, so that no length is preferred. The room that is
    then left in a row takes the beginning of one more document. Chunks cut from one long text, as in the paper, waste
    no room either, but tear a document in every row and show its end without its beginning, which a story's end
    depends on (Ding et al., arXiv 2404.10830, measure what that costs).

    Args:
        documents: token ids. One that is longer than a row is cut at the row's end.
        num_rows, row_length: the shape of what is returned.
        pad: fills what stays empty: where the documents do not suffice, or a single token is left.
    """
    lengths = [min(len(document), row_length) for document in documents]
    low, high = 0, len(documents)
    while low < high:  # the largest number of documents that fit
        middle = (low + high + 1) // 2
        if len(best_fit(lengths[:middle], row_length)) <= num_rows:
            low = middle
        else:
            high = middle - 1
    rows = np.full((num_rows, row_length), pad, np.int64)
    others = iter(documents[low:])
    for row, chosen in enumerate(best_fit(lengths[:low], row_length)):
        text = [token for number in sorted(chosen) for token in documents[number][:row_length]]
        if row_length - len(text) > 1:
            text += next(others, [])[: row_length - len(text)]
        rows[row, : len(text)] = text
    return rows
