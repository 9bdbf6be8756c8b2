"""Text as a task: any data set, in the tokenizer and chat template of the model that learns it.

A data set is what :mod:`ftmech_hf.tasks.text.reading` reads: a file, a folder, or a name on the Hub. Its rows have

- ``prompt`` and ``completion`` (or ``question``, ``answer``): text, or a chat and what the assistant says next,
- ``messages``: a whole chat, of which what the assistant says counts as answers,
- ``text``: plain text, of which every token counts, or
- ``chosen`` and ``rejected``: answers to a ``prompt``, or two chats that differ in their last message.

Splits are ``train``, ``validation`` and ``test``; missing ones are cut off as :mod:`ftmech_hf.tasks.text.splits` says.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ftmech_hf.config import tell
from ftmech_hf.tasks.epochs import in_epochs, shuffled
from ftmech_hf.tasks.schema import Offer, Rows, Task
from ftmech_hf.tasks.text.continuations import Join
from ftmech_hf.tasks.text.encoding import ANSWER, END, TextRows, rows_that_teach
from ftmech_hf.tasks.text.identity import dataset_hash
from ftmech_hf.tasks.text.join import AnswerSpace, check_answer_space, choose_join, describe_join
from ftmech_hf.tasks.text.kinds import encoded, kind_of, read_tables
from ftmech_hf.tasks.text.left_out import Faults
from ftmech_hf.tasks.text.tables import PLACE, contradictions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORT = 8
"""Tokens of an answer up to which it is judged as right or wrong; of longer ones only the loss is logged."""

SOURCES = {"validation": "validation", "test": "test"}
"""Which rows of the data set a random stream is of, if not those of ``train``."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(Task):
    """Which text is learned. It becomes rows once a tokenizer is known: :meth:`in_tokens_of`."""

    measures = ("loss",)  # accuracy too, where its answers turn out to be short

    dataset: str = field(
        default="",
        metadata={"place": "input", "help": "a file, a folder, or a data set on the Hub as USER/NAME[:CONFIG]"},
    )
    max_tokens: int | None = field(
        default=None,
        metadata={"help": "leave out rows of more tokens; without it, one that the model cannot read is an error"},
    )
    max_rows: int | None = field(default=None, metadata={"help": "take at most so many rows of each split"})
    learn_end: bool = field(default=True, metadata={"help": "whether the token that ends an answer is learned with it"})
    answer_space: AnswerSpace = field(
        default="auto",
        metadata={"unsaid": True, "help": "where there is no white space between prompt and answer: as_written: "
                  "nothing; space: one; auto: what the prompts suggest"},
    )  # fmt: skip
    cut_seed: int = field(default=0, metadata={"help": "of the cut, where the data set has no test split"})

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_rows"):
            if (value := getattr(self, name)) is not None and value < 2:
                raise ValueError(f"{name}: {value}, expected at least 2")
        check_answer_space(self.answer_space)
        if self.cut_seed < 0:
            raise ValueError(f"cut_seed: {self.cut_seed} is negative, expected 0 or more")

    def inputs(self) -> Mapping[str, str]:
        """The hash of the data set."""
        return {"dataset": dataset_hash(self.dataset)}

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Not known without a tokenizer, as nothing else of its rows."""
        raise ValueError("task: text has tokens only once a model is named whose tokenizer it is written in")

    @property
    def operator_names(self) -> tuple[str, ...]:
        """As :meth:`vocabulary`."""
        return self.vocabulary

    @property
    def operand_names(self) -> tuple[str, ...]:
        """As :meth:`vocabulary`."""
        return self.vocabulary

    @property
    def row_length(self) -> int:
        """As :meth:`vocabulary`."""
        return len(self.vocabulary)

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """As :meth:`vocabulary`."""
        return Rows(np.array(self.vocabulary), np.array([]), np.array([]))

    def variant(self, name: str) -> Task:
        """None: it is a data set already.

        Raises:
            ValueError: always.
        """
        raise ValueError("task: text is a data set already")

    def in_tokens_of(self, tokenizer: PreTrainedTokenizerBase, *, positions: int | None = None) -> TextTask:
        """The rows, in a model's own tokens.

        Args:
            tokenizer: of the model.
            positions: how many tokens the model can be shown.

        Raises:
            ValueError: no such data set or columns, a value that is no text, a row that the model cannot read, a
                tokenizer that ends no text or has no chat template; names the row.
        """
        if not self.dataset:
            raise ValueError("dataset: none, expected a file, a folder, or a data set on the Hub as USER/NAME")
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer: the model's has no token that ends a text (eos_token), expected one")
        return TextTask(self, tokenizer, positions)


class TextTask(Task):
    """The rows of a :class:`TextConfig`: a function of (data set, seed, split, row number).

    A stream goes through its rows in epochs, each in an order of its own.
    """

    block_rows = 64

    def __init__(self, config: TextConfig, tokenizer: PreTrainedTokenizerBase, positions: int | None) -> None:
        self.config, self.tokenizer = config, tokenizer
        self._limit = None if positions is None else positions + 1  # the last token is only predicted
        self._inputs = config.inputs()
        self._tables, notes = read_tables(config.dataset, config.cut_seed, tokenizer)
        for note in notes:
            tell(f"dataset: {config.dataset}: {note}")
        self.kind = kind_of(self._tables["train"])
        self._join: Join | None = (
            None if self.kind == "text" else choose_join(self._tables["train"], tokenizer, config.answer_space)
        )
        self._say_what_is_odd()
        self._rows = {split: self._encode(split) for split in self._tables}
        for split in ("train", "test"):
            if not len(self._rows[split][0]):
                raise ValueError(f"dataset: {config.dataset} has no {split} rows of its own, expected at least 1")
        if self.kind == "chats" and config.learn_end and not (self._rows["train"][0].marks == END).any():
            tell(f"dataset: {config.dataset}: the tokenizer's chat template ends no turn with a special token, so that "
                 "no end is learned")  # fmt: skip

        if config.inputs() != self._inputs:
            raise ValueError(f"dataset: {config.dataset} changed while it was read; try again when nothing writes it")

    # What is read

    def _say_what_is_odd(self) -> None:
        if self.kind == "text":
            return
        everything = [rows for rows in self._tables.values() if len(rows)]
        columns = ([value for rows in everything for value in rows[column][:]] for column in ("prompt", "answer"))
        if note := contradictions(*columns):
            tell(f"dataset: {self.config.dataset}: {note}")
        assert self._join is not None
        if self.kind != "chats" and (
            note := describe_join(self._tables["train"], self._join, self.config.answer_space)
        ):
            tell(f"dataset: {self.config.dataset}: {note}")

    def _encode(self, split: str) -> tuple[TextRows, TextRows | None]:
        """(the rows, those that are rejected) of a split, without those that are too long."""
        config, rows = self.config, self._tables[split]
        if config.max_rows is not None:
            rows = rows.select(range(min(len(rows), config.max_rows)))
        found, rejected = encoded(rows, self.tokenizer, config.dataset, split, self._join)
        lengths = [max(map(len, ids)) for ids in zip(*(  # of both answers of a pair
            [row.token_ids for row in each] for each in (found, rejected) if each is not None
        ), strict=True)]  # fmt: skip
        limit = config.max_tokens or max(lengths, default=0)
        kept = [number for number, length in enumerate(lengths) if length <= limit]
        if lost := len(lengths) - len(kept):
            tell(f"dataset: {config.dataset}: {lost} of {len(lengths)} rows of {split} are longer than max_tokens: "
                 f"{limit} and left out")  # fmt: skip
        ends = config.learn_end and split not in SOURCES
        teach = set(kept).intersection(*(rows_that_teach(each, ends=ends) for each in (found, rejected) if each))
        if empty := len(kept) - len(teach):  # the mean of nothing is no number
            tell(f"dataset: {config.dataset}: {empty} rows of {split} have no token to learn and are left out")
        kept = sorted(teach)
        places = rows[PLACE][:]
        Faults(config.dataset).kept(
            [self._too_long(places[number], lengths[number]) for number in kept], "; --max_tokens leaves such rows out"
        )
        others = None if rejected is None else TextRows.of([rejected[number] for number in kept])
        return TextRows.of([found[number] for number in kept]), others

    def _too_long(self, place: str, length: int) -> str | None:
        if self._limit is None or length <= self._limit:
            return None
        return f"{place}: it has {length} tokens, but the model has {self._limit - 1} positions"

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The model's."""
        return tuple(self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer)))))

    @property
    def operator_names(self) -> tuple[str, ...]:
        """A row asks what its prompt says."""
        return ()

    @property
    def operand_names(self) -> tuple[str, ...]:
        """None either."""
        return ()

    @property
    def offers(self) -> tuple[Offer, ...]:  # type: ignore[override]
        """Answers, which are all tokens of plain text; pairs have two of them."""
        return ("tokens", "answers", "pairs") if self.kind == "pairs" else ("tokens", "answers")

    @functools.cached_property
    def measures(self) -> tuple[Literal["accuracy", "loss"], ...]:  # type: ignore[override]
        """Loss, and accuracy where answers are short."""
        rows = self._rows["test"][0]
        longest = max(np.add.reduceat(rows.marks == ANSWER, rows.starts[:-1]), default=0)
        return ("accuracy", "loss") if self.kind in ("prompts", "pairs") and longest <= SHORT else ("loss",)

    @functools.cached_property
    def row_length(self) -> int:
        """Tokens of the longest row."""
        return max(int(each.lengths.max()) for pair in self._rows.values() for each in pair if each and len(each))

    @functools.cached_property
    def tokens_per_row(self) -> float:
        """Tokens that are read of a training row, on average."""
        return float(sum((each.lengths - 1).mean() for each in self._rows["train"] if each is not None))

    @property
    def largest_id(self) -> int:
        """The largest token id of all rows."""
        return max(int(each.token_ids.max()) for pair in self._rows.values() for each in pair if each and len(each))

    def num_rows(self, split: str) -> int:
        """How many rows there are for a stream."""
        return len(self._rows[SOURCES.get(split, "train")][0])

    def block(self, seed: int, split: str, number: int) -> Rows:
        """One block of a stream."""
        first, total = number * self.block_rows, self.num_rows(split)
        if not total:
            raise ValueError(f"dataset: {self.config.dataset} has no {split} rows of its own, expected at least 1")
        numbers = in_epochs(
            range(first, first + self.block_rows), total, lambda epoch: shuffled(total, seed, split, epoch)
        )
        chosen, rejected = self._rows[SOURCES.get(split, "train")]
        rows = self._select(chosen, numbers, split)
        if rejected is None:
            return rows
        return Rows(rows.token_ids, rows.label, rows.correlated, None, rows.answers, rows.lengths,
                    self._select(rejected, numbers, split))  # fmt: skip

    def _select(self, rows: TextRows, numbers: Any, split: str) -> Rows:
        pad = self.tokenizer.pad_token_id
        ids, marks = rows.select(numbers, self.row_length, self.tokenizer.eos_token_id if pad is None else pad)
        learned = self.config.learn_end and SOURCES.get(split) is None  # a test is of the answer itself
        answers = (marks == ANSWER) | ((marks == END) if learned else False)
        no = np.full(len(numbers), -1), np.zeros(len(numbers), bool)
        return Rows(ids, *no, answers=answers, lengths=rows.lengths[numbers])

    def sample_block(self, rng: np.random.Generator) -> Rows:
        """A block of training rows in an order of its own."""
        return self.block(int(rng.integers(2**32)), "train", 0)

    def inputs(self) -> Mapping[str, str]:
        """The hash of the data set, as it was read: what lies there later is another."""
        return self._inputs

    # What is said of it

    def bytes_per_token(self, rows: Rows) -> float:
        """Bytes of text that a predicted token of the answers of rows stands for on average."""
        assert rows.answers is not None
        predicted = rows.answers[:, 1:]  # nothing predicts the first token, which counts as an answer in plain text
        texts = [
            self.tokenizer.decode(ids[mask], skip_special_tokens=True)
            for ids, mask in zip(rows.token_ids[:, 1:], predicted, strict=True)
        ]
        return sum(len(str(text).encode()) for text in texts) / int(predicted.sum())

    def example(self, seed: int) -> Mapping[str, str]:
        """The prompt of a test row as the model reads it, and its answer."""
        rows = self.block(seed, "test", 0)
        assert rows.answers is not None
        ids, mask = rows.token_ids[0], rows.answers[0]
        prompt = ids[: int(mask.argmax())] if self.kind != "text" else ids[:1]
        return {"prompt": str(self.tokenizer.decode(prompt)), "answer": str(self.tokenizer.decode(ids[mask]))}
