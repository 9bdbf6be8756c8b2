"""Rows of earlier tasks beside new ones: kept together, of one width, and shown among them."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks import Rows, RowStream
from ftmech_hf.tasks.schema import PAD, SPECIAL_TOKENS, split_generator

COLUMNS = ("token_ids", "label", "correlated", "answers", "lengths")
"""What is kept of rows, as far as they have it."""


def beside(earlier: Rows, rows: Rows) -> list[Rows]:
    """Kept rows and new ones, of one width.

    Raises:
        ValueError: they are of two kinds, or of two lengths that nobody could tell afterwards.
    """
    kinds = [tuple(name for name in COLUMNS if getattr(each, name) is not None) for each in (earlier, rows)]
    if kinds[0] != kinds[1]:
        said = [" and ".join(kind) for kind in kinds]
        raise ValueError(f"keep_rows: kept rows have {said[0]}, and new ones {said[1]}, expected rows of one kind")
    widths = [each.token_ids.shape[1] for each in (earlier, rows)]
    if widths[0] != widths[1] and not {"answers", "lengths"} <= {*kinds[0]}:
        raise ValueError(f"keep_rows: kept rows of {widths[0]} tokens beside rows of {widths[1]}, expected one length")
    return [widened(each, max(widths)) for each in (earlier, rows)]


def widened(rows: Rows, width: int) -> Rows:
    """Rows filled up on their right to a width.

    Raises:
        ValueError: they are shorter and have no lengths, so that nobody would know where they end.
    """
    missing = width - rows.token_ids.shape[1]
    if not missing:
        return rows
    if rows.lengths is None or rows.answers is None:
        raise ValueError(
            f"replay_share: kept rows of {rows.token_ids.shape[1]} tokens beside rows of {width}, expected one length"
        )
    pad = SPECIAL_TOKENS.index(PAD)
    token_ids = np.pad(rows.token_ids, ((0, 0), (0, missing)), constant_values=pad)
    return dataclasses.replace(rows, token_ids=token_ids, answers=np.pad(rows.answers, ((0, 0), (0, missing))))


def shuffled_answers(rows: Rows, seed: int) -> Rows:
    """A control: rows of one-token answers with each other's.

    Raises:
        ValueError: their answers are longer.
    """
    if rows.answers is not None:
        raise ValueError("replay_shuffled: expected rows whose answers are one token at one place")
    order = split_generator(seed, "probe", 0).permutation(len(rows))
    token_ids = rows.token_ids.copy()
    token_ids[:, -2] = token_ids[order, -2]
    return dataclasses.replace(rows, token_ids=token_ids, label=rows.label[order])


class ReplayStream(RowStream):
    """A stream in which some rows are replaced by rows that were kept: still a pure function of the row number.

    Args:
        new: the stream of new rows.
        kept: rows of earlier tasks.
        share: the probability with which a row is replaced by one of them, drawn with replacement.

    Raises:
        ValueError: the rows differ in what is known of them.
    """

    def __init__(self, new: RowStream, kept: Rows, share: float) -> None:
        super().__init__(new.task, seed=new.seed, split=new.split)
        self.new, self.kept, self.share = new, kept, share
        example = new.rows(0, 1)
        if (example.answers is None) != (kept.answers is None):
            raise ValueError("replay_share: kept rows and new rows are of tasks of different kinds, expected one kind")

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop - 1``, with the numbers of those that were kept."""
        new = self.new.rows(start, stop)
        kept = self._drawn(start, stop)
        width = max(new.token_ids.shape[1], self.kept.token_ids.shape[1])
        new, old = widened(new, width), widened(self.kept, width)
        columns = {
            name: None if getattr(new, name) is None else _replaced(getattr(new, name), getattr(old, name), kept)
            for name in COLUMNS
        }
        return Rows(**columns, kept=kept)  # type: ignore[arg-type]  # those that rows must have are never None

    def _drawn(self, start: int, stop: int) -> NDArray[np.int64]:
        size = self.task.block_rows
        blocks = range(start // size, (stop - 1) // size + 1)
        drawn = np.concatenate([self._of_block(number) for number in blocks])
        return drawn[start - blocks[0] * size : stop - blocks[0] * size]

    def _of_block(self, number: int) -> NDArray[np.int64]:
        key = np.random.SeedSequence([self.seed, len(self.kept), number])
        rng = np.random.Generator(np.random.Philox(key))
        chosen = rng.integers(0, len(self.kept), self.task.block_rows)
        return np.where(rng.random(self.task.block_rows) < self.share, chosen, -1)


def _replaced(new: NDArray[np.generic], old: NDArray[np.generic], kept: NDArray[np.int64]) -> NDArray[np.generic]:
    found = new.copy()
    found[kept >= 0] = old[kept[kept >= 0]]
    return found
