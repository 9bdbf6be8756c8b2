"""What every task shares: splits, the row format, the counter-based random streams, the protocol of a task."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import Tokenizer

SPLITS = ("train", "finetune", "reverse", "probe", "validation", "test")
"""Disjoint random streams: three to train on (pretraining, fine-tuning, reversing), one to fit instruments on, one to
choose on (a K, a threshold) and one to report on."""

BLOCK = 1024
"""Rows of a block, drawn from one generator, so that sampling is vectorised and can reject; tasks may have others."""

PAD, BOS, EOS, UNK, SOT, EOT, ART = "<pad>", "<bos>", "<eos>", "<unk>", "<sot>", "<eot>", "="
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK, SOT, EOT, ART)

NO_OPERAND, NO_ANSWER = "null", "none"
"""The words for "this operator takes no operand" and "there is no such occurrence"."""

TEXT = slice(5, -4)
"""Where the text stands in a row ``<bos> OPERATOR OPERAND PARAMETER <sot> TEXT <eot> = ANSWER <eos>``."""

LETTERS_TEXT = slice(1, -2)
"""Where it stands in a row ``<bos> TEXT ANSWER <eos>``, of tasks that ask only one question and do not spell it out."""

PROMPT, ANSWER = slice(0, -2), slice(-2, -1)
"""The part of a row that a model is given, everything before the answer; and the answer, where it is one token."""


Offer = Literal["tokens", "answers", "documents", "pairs"]
"""What rows have for objectives: tokens to go on with, answers, packed documents, or chosen and rejected answers."""


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
        label: the answer as an integer, int64 (B,); -1 where there is none.
        correlated: whether the planted correlation holds in the row's text, bool (B,).
        ancestors: symbol ids above each symbol of the text, int16 (B, levels, text length), if they were requested;
            see :class:`ftmech_hf.tasks.sampling.Strings`.
        answers: the tokens that a model is to answer with, bool (B, T); None if that is the last but one of every row.
        lengths: tokens of each row, int64 (B,), where rows are filled up on their right; None if none is.
        rejected: for the same prompts, rows with answers that are not wanted, where there are any.
        kept: the number of a row of an earlier task among those that were kept, (B,), -1 of new ones; None if none.
    """

    token_ids: NDArray[np.int64]
    label: NDArray[np.int64]
    correlated: NDArray[np.bool_]
    ancestors: NDArray[np.int16] | None = None
    answers: NDArray[np.bool_] | None = None
    lengths: NDArray[np.int64] | None = None
    rejected: Rows | None = None
    kept: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice) -> Rows:
        cut: dict[str, Any] = {name: value if value is None else value[rows] for name, value in self._columns().items()}
        return Rows(**cut)

    def _columns(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """Join blocks of rows, in order."""
        columns = [part._columns() for part in parts]
        return Rows(**{name: _join([each[name] for each in columns]) for name in columns[0]})


def _join(values: Sequence[Any]) -> Any:
    join: Any = Rows.concatenate if isinstance(values[0], Rows) else np.concatenate
    return None if values[0] is None else join(values)


class Task(Protocol):
    """What a task's config offers. A frozen dataclass that subclasses this, and a line in ``TASKS``, is a new task."""

    text: ClassVar[slice] = TEXT
    answer: ClassVar[slice] = ANSWER
    fixed_places: ClassVar[bool] = True
    """Where text and answer stand in a row, the text at :data:`LETTERS_TEXT` where rows name no question; and whether
    they stand there in every row, or where the answers of :class:`Rows` say."""

    block_rows: ClassVar[int] = BLOCK  # rows of a block

    offers: ClassVar[tuple[Offer, ...]] = ("tokens", "answers")
    has_rejected: ClassVar[bool] = False
    """What rows have for training to minimise; and whether pairs are answers to one prompt, which a dataset shows."""

    measures: ClassVar[tuple[Literal["accuracy", "loss"], ...]] = ("accuracy",)
    """What a model is judged by: the share of right answers, nats per token where rows end in no answer, or both."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """All words, :data:`SPECIAL_TOKENS` first; a word's position is its token id."""
        ...

    @property
    def operator_names(self) -> tuple[str, ...]:
        """The words that may stand in the operator's place."""
        ...

    @property
    def operand_names(self) -> tuple[str, ...]:
        """The words that may stand in the operand's place."""
        ...

    @property
    def row_length(self) -> int:
        """Tokens of a whole row."""
        ...

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """Draw ``block_rows`` rows, using no other source of randomness."""
        ...

    def block(self, seed: int, split: str, number: int) -> Rows:
        """One block of a stream."""
        return self.sample_block(split_generator(seed, split, number))

    @property
    def backend(self) -> Tokenizer | None:
        """The tokenizer, for tasks that learn theirs; others have a word for every token of ``vocabulary``."""
        return None

    def inputs(self) -> Mapping[str, str]:
        """Name -> hash of the files that rows come from; a run is another if one of them changes."""
        return {}

    @property
    def tokens_per_row(self) -> float:
        """Tokens of a row that a model reads, on average."""
        return self.row_length - 1

    def num_rows(self, split: str) -> int | None:
        """How many different rows a split has; None where there is no end of them."""
        return None

    def bytes_per_token(self, rows: Rows) -> float | None:
        """Bytes of text that a predicted token of rows stands for on average; None where rows are no text."""
        return None

    def example(self, seed: int) -> Mapping[str, str] | None:
        """``prompt`` and ``answer`` of a test row for a model's card; None to take them from the task's dataset."""
        return None

    def question(self, token_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What rows (B, T) ask, (B,) each: the places of operator and operand among their names, and the parameter.

        The parameter is -1 if its word is no number.
        """
        words = self.vocabulary
        numbers = np.array([int(word) if word.isdecimal() else -1 for word in words])
        place = {word: number for number, word in enumerate(words)}

        def classes(names: tuple[str, ...], column: NDArray[np.int64]) -> NDArray[np.int64]:
            of_word = np.full(len(words), -1)
            of_word[[place[name] for name in names]] = np.arange(len(names))
            return of_word[column]

        operator, operand = classes(self.operator_names, token_ids[:, 1]), classes(self.operand_names, token_ids[:, 2])
        return operator, operand, numbers[token_ids[:, 3]]

    def test_tasks(self) -> Mapping[str, Task]:
        """The distributions to test a model on that is trained on this one, by name."""
        return {"all": self}

    def variant(self, name: str) -> Task:
        """A distribution derived from this one, by the name it has as a dataset's config.

        Raises:
            ValueError: an unknown name.
        """
        if name != "default":
            raise ValueError(f"variants: unknown {name!r}, expected default")
        return self


def encode_rows(
    task: Task,
    *,
    operator: ArrayLike,
    operand: ArrayLike,
    parameter: ArrayLike,
    text: NDArray[np.integer],
    answer: ArrayLike,
) -> NDArray[np.int64]:
    """Put token ids in their places: ``<bos> OPERATOR OPERAND PARAMETER <sot> TEXT <eot> = ANSWER <eos>``.

    Args:
        task: whose vocabulary the ids are of.
        operator, operand, parameter, answer: token ids, one for all rows or one per row (B,).
        text: token ids (B, T).

    Returns:
        rows (B, T + 9).
    """
    rows = np.empty((len(text), text.shape[1] + 9), np.int64)
    rows[:, 0], rows[:, 4], rows[:, -4], rows[:, -3], rows[:, -1] = _frame_ids(task.vocabulary)
    rows[:, 1], rows[:, 2], rows[:, 3], rows[:, -2] = operator, operand, parameter, answer
    rows[:, TEXT] = text
    return rows


@functools.cache
def _frame_ids(vocabulary: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(vocabulary.index(word) for word in (BOS, SOT, EOT, ART, EOS))


def split_generator(seed: int, split: str, number: int) -> np.random.Generator:
    """The random generator of one block, story or whatever is numbered within a split.

    (seed, split, number) is hashed into the 128-bit key of Philox, so two of them share random numbers only if two of
    these hashes collide.

    Raises:
        ValueError: an unknown split, or a negative seed.
    """
    if split not in SPLITS:
        raise ValueError(f"split: unknown {split!r}, expected one of {', '.join(SPLITS)}")
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative, expected 0 or more")
    split_key = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, split_key, number])))


class RowStream:
    """The rows of one (task, seed, split): a pure function of the row number.

    Row i is row ``i % B`` of block ``i // B``, which is a function of (seed, split, block) alone; B is the task's
    ``block_rows``. So any row can be made without the others before it, shards are arithmetic, and nothing has to be
    saved to go on.

    Args:
        task: the task's config.
        seed: any non-negative integer.
        split: one of :data:`SPLITS`; different splits use unrelated generators.
    """

    def __init__(self, task: Task, *, seed: int, split: str) -> None:
        split_generator(seed, split, 0)  # a wrong one shows here
        self.task, self.seed, self.split = task, seed, split
        self._cached: tuple[int, Rows] | None = None

    def generator(self, block: int) -> np.random.Generator:
        """The random generator of a block."""
        return split_generator(self.seed, self.split, block)

    def _block(self, number: int) -> Rows:
        if self._cached is None or self._cached[0] != number:
            self._cached = number, self.task.block(self.seed, self.split, number)
        return self._cached[1]

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop - 1``.

        Raises:
            ValueError: there is no such range.
        """
        if not 0 <= start < stop:
            raise ValueError(f"rows: expected 0 <= start < stop, got start {start} and stop {stop}")
        size = self.task.block_rows
        first, last = start // size, (stop - 1) // size
        if first == last:
            return self._block(first)[start - first * size : stop - first * size]
        joined = Rows.concatenate([self._block(number) for number in range(first, last + 1)])
        return joined[start - first * size : stop - first * size]

    def blocks(self, start: int, stop: int) -> Iterator[Rows]:
        """Rows ``start`` to ``stop - 1`` in pieces of at most a block, in bounded memory."""
        size = self.task.block_rows
        edges = [start, *range(start - start % size + size, stop, size), stop]
        for first, last in itertools.pairwise(edges):
            yield self.rows(first, last)
