"""What a data set turned out to hold: label histograms, missing answers, the correlation's share, texts seen before."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.tasks.schema import Rows, Task

LABEL_COLUMNS = ("operator", "operand", "correlated", "label")
"""What rows are counted by."""


class DatasetStatistics:
    """Running statistics of the rows of one split; feed it with :meth:`add`.

    Attributes:
        num_rows, num_correlated, num_without_answer: counts; a label of -1 is an answer that does not exist.
        histogram: (operator, operand, correlated, label) -> rows; empty where questions stand at no fixed place, so
            that nothing is said of them, nor of labels.
        texts: a 64-bit hash of every text. Two different texts share one with probability below 2 ** -60.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.num_rows = self.num_correlated = self.num_without_answer = 0
        self.histogram: Counter[tuple[str, str, bool, int]] = Counter()
        self._texts: list[NDArray[np.uint64]] = []
        self._digest = hashlib.sha256()

    def add(self, rows: Rows) -> None:
        """Count some rows."""
        self.num_rows += len(rows)
        self.num_correlated += int(rows.correlated.sum())
        if self.task.fixed_places:
            self._count_labels(rows)
        self._texts.append(_hash_texts(self._texts_of(rows)))
        self._digest.update(np.ascontiguousarray(rows.token_ids, "<i8").tobytes())

    def _texts_of(self, rows: Rows) -> NDArray[np.int64]:
        """The texts that are asked about, (B, T): whole prompts of rows whose answers stand anywhere."""
        if self.task.fixed_places:
            return rows.token_ids[:, self.task.text]
        assert rows.answers is not None
        places = np.arange(rows.token_ids.shape[1])
        return np.where(places < rows.answers.argmax(axis=1)[:, None], rows.token_ids, 0)

    def _count_labels(self, rows: Rows) -> None:
        self.num_without_answer += int((rows.label == -1).sum())
        operators, operands = self.task.operator_names, self.task.operand_names
        sides = (len(operators), len(operands), 2, int(rows.label.max()) + 2)
        columns = (*self.task.question(rows.token_ids)[:2], rows.correlated.astype(np.int64), rows.label + 1)
        keys, numbers = np.unique(np.ravel_multi_index(columns, sides), return_counts=True)
        for *key, number in zip(*np.unravel_index(keys, sides), numbers, strict=True):
            operator, operand, correlated, label = map(int, key)
            self.histogram[operators[operator], operands[operand], bool(correlated), label - 1] += int(number)

    @property
    def texts(self) -> NDArray[np.uint64]:
        """Hashes of all texts, in the order of the rows."""
        return np.concatenate(self._texts)

    @property
    def checksum(self) -> str:
        """sha256 of the rows' token ids as little-endian int64."""
        return self._digest.hexdigest()

    def rows(self) -> list[dict[str, Any]]:
        """The label histogram as a tidy table."""
        return [{**dict(zip(LABEL_COLUMNS, key, strict=True)), "rows": n} for key, n in sorted(self.histogram.items())]

    def overlap(self, train: DatasetStatistics) -> float:
        """Share of these texts that also occur among the training texts."""
        return float(np.isin(self.texts, train.texts).mean())

    def repeated(self) -> float:
        """Share of these texts that occurred earlier in the same split."""
        return 1 - len(np.unique(self.texts)) / self.num_rows


def _hash_texts(text: NDArray[np.integer]) -> NDArray[np.uint64]:
    """A random linear hash modulo 2 ** 64, with fixed odd multipliers."""
    multipliers = np.random.Generator(np.random.Philox(0)).integers(0, 2**63, text.shape[1], np.uint64) * 2 + 1
    return text.astype(np.uint64) @ multipliers.astype(np.uint64)
