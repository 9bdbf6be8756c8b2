"""Streams that go through the same things again and again, each time in an order of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.schema import split_generator


@functools.lru_cache(maxsize=8)
def shuffled(count: int, seed: int, split: str, epoch: int) -> NDArray[np.int64]:
    """The order in which a split draws its ``count`` things the ``epoch``-th time; kept, and not to be changed."""
    return split_generator(seed, split, epoch).permutation(count)


def in_epochs(places: range, count: int, order_of: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Which of ``count`` things stand at some places of such a stream, (len(places),).

    Args:
        places: in the stream, which has no end.
        count: of the things.
        order_of: epoch -> the order of the things in it, (count,).
    """
    orders = {epoch: order_of(epoch) for epoch in {place // count for place in places}}
    return np.array([orders[place // count][place % count] for place in places])
