"""Rows of the coming steps for several streams, made by other processes while a device computes.

Models that train together learn from several streams at once, more rows than one core makes. Rows of one stream are
made by a thread (:mod:`ftmech_hf.training.making_ahead`), which a script without a main guard can start, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ftmech_hf.tasks import RowStream

CHUNKS_AHEAD = 2
"""Chunks that each process has made before anybody asks."""


class RowsAhead:
    """The token ids that several streams have for each step.

    Step s is rows ``[s*B, (s+1)*B)`` of each stream, whoever makes them and whenever. Rows are asked for in chunks of
    steps that are whole blocks of a stream, so that no block is made twice.

    Args:
        streams: whose rows are of one shape.
        batch_size: rows of a stream in a step, B.
        workers: processes that make them; 0 makes them where they are asked for, when they are.
        pin: into memory that a GPU reads without waiting.
    """

    def __init__(self, streams: Sequence[RowStream], batch_size: int, *, workers: int, pin: bool) -> None:
        size = math.lcm(batch_size, *(stream.task.block_rows for stream in streams))
        self.chunk_steps = size // batch_size if workers else 1
        self._chunks = _Chunks(streams, batch_size, self.chunk_steps)
        self._workers, self._pin = workers, pin

    def steps(self, start: int, stop: int) -> Iterator[Tensor]:
        """Token ids (S, B, T), int32, of steps ``start`` to ``stop - 1`` for S streams."""
        if start >= stop:
            return
        first, last = start // self.chunk_steps, (stop - 1) // self.chunk_steps
        busy: dict[str, Any] = (
            {"prefetch_factor": CHUNKS_AHEAD, "multiprocessing_context": "spawn"} if self._workers else {}
        )
        chunks: DataLoader[Tensor] = DataLoader(
            self._chunks, batch_size=None, sampler=range(first, last + 1), num_workers=self._workers,
            pin_memory=self._pin, **busy,
        )  # fmt: skip
        for number, chunk in enumerate(chunks, start=first):
            begin = number * self.chunk_steps
            yield from chunk[max(start - begin, 0) : stop - begin]


class _Chunks(Dataset[Tensor]):
    """Token ids of a chunk of steps by its number, (steps, S, B, T)."""

    def __init__(self, streams: Sequence[RowStream], batch_size: int, steps: int) -> None:
        self.streams, self.batch_size, self.steps = streams, batch_size, steps

    def __getitem__(self, number: int) -> Tensor:
        rows = self.steps * self.batch_size
        made = [stream.rows(number * rows, (number + 1) * rows).token_ids for stream in self.streams]
        by_step = [each.astype(np.int32).reshape(self.steps, self.batch_size, -1) for each in made]
        return torch.from_numpy(np.stack(by_step, 1))
