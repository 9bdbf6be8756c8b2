"""What every task shares: splits, the row schema, the counter-based random streams, rows as HF datasets."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import datasets
import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "finetune", "reverse", "probe", "validation", "test")
"""Disjoint random streams: three to train on (pretraining, fine-tuning, reversing), one to fit instruments on, one to
choose on (a K, a threshold) and one to report on."""

BLOCK = 256
"""Rows come in blocks; a block is drawn from one generator, so that sampling can be vectorised and can reject."""

PAD, BOS, EOS, UNK, SOT, EOT, ART = "<pad>", "<bos>", "<eos>", "<unk>", "<sot>", "<eot>", "="
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK, SOT, EOT, ART)

FEATURES = datasets.Features(
    {
        "prompt": datasets.Value("string"),
        "completion": datasets.Value("string"),
        "operator": datasets.Value("string"),
        "operand": datasets.Value("string"),
        "parameter": datasets.Value("int64"),
        "text": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "label": datasets.Value("int64"),
        "correlated": datasets.Value("bool"),
    }
)
"""Columns of a task's dataset. ``prompt`` + ``completion`` is what a model is trained on; ``parameter`` is the number
O' in the prompt; ``label`` is the answer as an integer (-1: not found; a terminal id for ``token_at``)."""


class Capability(NamedTuple):
    """A function on a sub-domain of inputs, such as counting a's."""

    operator: str
    operand: str

    def __str__(self) -> str:
        return f"{self.operator}_{self.operand}"


@dataclass(frozen=True)
class Rows:
    """A block of encoded rows.

    Attributes:
        token_ids: whole rows, prompt and completion, int64 (B, T); all rows of a task are equally long.
        label: the answer as an integer, int64 (B,).
        operator, operand: positions in the task's operators and operands, int64 (B,); operand -1 means none.
        correlated: whether the planted correlation holds in the row's text, bool (B,).
    """

    token_ids: NDArray[np.int64]
    label: NDArray[np.int64]
    operator: NDArray[np.int64]
    operand: NDArray[np.int64]
    correlated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(**{name: column[rows] for name, column in vars(self).items()})

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """Join blocks of rows, in order."""
        return Rows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


class Task(Protocol):
    """What a task's config offers. Implementing this and adding one line to ``TASKS`` is all a new task needs."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All words, special tokens first; a word's position is its token id."""
        ...

    @property
    def row_length(self) -> int:
        """Tokens of a whole row."""
        ...

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """Draw :data:`BLOCK` rows."""
        ...

    def describe_row(self, rows: Rows, number: int) -> dict[str, Any]:
        """Row ``number`` as the columns of :data:`FEATURES`."""
        ...


class RowStream:
    """The rows of one (task, seed, split): a pure function of the row number.

    Row i is row ``i % BLOCK`` of block ``i // BLOCK``, whose generator is seeded by (seed, split, block) alone. So any
    row can be made without the others before it, shards are arithmetic, and nothing has to be saved to go on.

    Args:
        task: the task's config.
        seed: any non-negative integer.
        split: one of :data:`SPLITS`; different splits use unrelated generators.
    """

    def __init__(self, task: Task, *, seed: int, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: unknown {split!r}, expected one of {', '.join(SPLITS)}")
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative, expected 0 or more")
        self.task, self.seed, self.split = task, seed, split
        self._split_key = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "little")
        self._cached: tuple[int, Rows] | None = None

    def _block(self, number: int) -> Rows:
        if self._cached is None or self._cached[0] != number:
            entropy = np.random.SeedSequence([self.seed, self._split_key, number])
            self._cached = number, self.task.sample_block(np.random.Generator(np.random.Philox(entropy)))
        return self._cached[1]

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop - 1``."""
        if not 0 <= start < stop:
            raise ValueError(f"rows: expected 0 <= start < stop, got start {start} and stop {stop}")
        first, last = start // BLOCK, (stop - 1) // BLOCK
        joined = Rows.concatenate([self._block(number) for number in range(first, last + 1)])
        return joined[start - first * BLOCK : stop - first * BLOCK]

    def iter_dicts(self, num_rows: int | None = None) -> Iterator[dict[str, Any]]:
        """Rows 0, 1, ... as the columns of :data:`FEATURES`; endless if ``num_rows`` is None."""
        for number in itertools.count() if num_rows is None else range(num_rows):
            yield self.task.describe_row(self._block(number // BLOCK), number % BLOCK)


def build_dataset(task: Task, split: str, num_rows: int, *, seed: int = 0) -> datasets.Dataset:
    """The first ``num_rows`` rows of a split as a ``datasets.Dataset`` with :data:`FEATURES`."""
    if num_rows < 1:
        raise ValueError(f"num_rows: {num_rows}, expected at least 1")
    return datasets.Dataset.from_list(list(RowStream(task, seed=seed, split=split).iter_dicts(num_rows)), FEATURES)


def stream_dataset(task: Task, split: str, *, seed: int = 0) -> datasets.IterableDataset:
    """The endless rows of a split as a ``datasets.IterableDataset`` with :data:`FEATURES`."""
    make_rows: Callable[[], Iterator[dict[str, Any]]] = RowStream(task, seed=seed, split=split).iter_dicts
    return datasets.IterableDataset.from_generator(make_rows, features=FEATURES)
