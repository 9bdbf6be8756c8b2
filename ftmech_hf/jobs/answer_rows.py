"""Prompts with their answers as token ids: answers may have any number of tokens.

A row is ``PROMPT ANSWER END``, with padding on its left where rows differ in length. So the answer is what stands
before the last token; a task of this package, whose answers are one token, has it in the last place but one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftmech_hf.tasks import Rows, Task
from ftmech_hf.tasks.schema import PAD
from ftmech_hf.tasks.text.tokens import Whole


@dataclass(frozen=True, kw_only=True)
class AnswerRows:
    """Whole rows (B, T), and which of their tokens are the answer.

    Attributes:
        token_ids: int64 (B, T).
        answer: bool (B, T); True for the tokens of the answer, which are the last ones but the end.
        pad: the token that fills shorter rows on the left and occurs nowhere else; None if no row is filled.
        other: the first token (B,) of another answer to each row, if there is one.
        labels: what may be read from a row, by name: integers (B,).
        types: numbers (B,) of the type of each row, for the control tasks of probes; None if rows have no types.
        asked: what each prompt says beside its text, numbers (B, K); None if all rows ask the same.
        accepted: of each row, the question with every further answer that is right; None if there are none.
        choices: of each row, the question with everything that there is to choose from; None if there is no choice.
        right: which of its choices is right, (B,); it is also the row's answer.
        groups: numbers (B,) of what each row is about, where rows belong together; None where each is by itself.
    """

    token_ids: Tensor
    answer: Tensor
    pad: int | None = None
    other: Tensor | None = None
    labels: Mapping[str, NDArray[np.integer]] = field(default_factory=dict)
    types: NDArray[np.integer] | None = None
    asked: NDArray[np.integer] | None = None
    accepted: Sequence[Sequence[Whole]] | None = None
    choices: Sequence[Sequence[Whole]] | None = None
    right: Tensor | None = None
    groups: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        if self.answer.shape != self.token_ids.shape or self.answer.dtype != torch.bool:
            raise ValueError(f"answer: {self.answer.dtype} {tuple(self.answer.shape)}, expected bool, one per token")
        width = self.token_ids.shape[1]
        last = torch.arange(width, device=self.answer.device) < width - 1
        expected = last & (torch.arange(width, device=last.device) >= width - 1 - self.lengths[:, None])
        if len(self) and (int(self.lengths.min()) < 1 or not torch.equal(self.answer, expected)):
            raise ValueError("answer: expected at least one token in every row, just before the last token of the row")

    @classmethod
    def one_token(cls, token_ids: Tensor, **more: Any) -> AnswerRows:
        """Rows whose answer is the last token but one, as all tasks of this package have them."""
        answer = torch.zeros_like(token_ids, dtype=torch.bool)
        answer[:, -2] = True
        return cls(token_ids=token_ids, answer=answer, **more)

    @classmethod
    def stack(
        cls,
        rows: Sequence[Sequence[int]],
        answers: Sequence[Sequence[bool]],
        pad: int | None,
        *,
        width: int = 0,
        **more: Any,
    ) -> AnswerRows:
        """Rows of any length as one tensor, at least ``width`` tokens wide; ``pad`` fills the shorter ones."""
        width = max([width, *map(len, rows)])  # 0 of no rows
        filled = [[pad or 0] * (width - len(row)) + list(row) for row in rows]
        masks = [[False] * (width - len(mask)) + list(mask) for mask in answers]
        if pad is None and any(len(row) != width for row in rows):
            raise ValueError("rows: of several lengths, but no token to fill the shorter ones with")
        ids, answer = torch.tensor(filled, dtype=torch.long), torch.tensor(masks, dtype=torch.bool)
        return cls(token_ids=ids.view(len(rows), width), answer=answer.view(len(rows), width), pad=pad, **more)

    @classmethod
    def of_task(cls, task: Task, rows: Rows) -> AnswerRows:
        """A task's rows with one answer at the end of each, before the token that ends it, and that as their label.

        Rows that are filled up on their right are moved there.

        Raises:
            ValueError: a row has several answers, or none.
        """
        assert rows.answers is not None
        width = rows.token_ids.shape[1]
        lengths = torch.full((len(rows),), width) if rows.lengths is None else torch.from_numpy(rows.lengths)
        column = torch.arange(width) - (width - lengths)[:, None]
        at, real = column.clamp(min=0), column >= 0
        pad = None if rows.lengths is None else task.vocabulary.index(PAD)
        ids = torch.where(real, torch.from_numpy(rows.token_ids).gather(1, at), pad or 0)
        answer = torch.from_numpy(rows.answers).gather(1, at) & real
        answer[:, -1] = False
        try:
            made = cls(token_ids=ids, answer=answer, pad=pad)
        except ValueError:
            raise ValueError(
                f"task: rows of {type(task).__name__} have several answers or none, expected one at the end of each, "
                "as of the library with mixture: questions and pretraining_share: 0"
            ) from None
        return dataclasses.replace(made, labels={"answer": made.first_answers.numpy()})

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> AnswerRows:
        at = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.long)
        numbers = at if isinstance(at, slice) else at.cpu().numpy()
        return AnswerRows(
            token_ids=self.token_ids[at],
            answer=self.answer[at],
            pad=self.pad,
            other=None if self.other is None else self.other[at],
            labels={name: values[numbers] for name, values in self.labels.items()},
            types=None if self.types is None else self.types[numbers],
            asked=None if self.asked is None else self.asked[numbers],
            accepted=_at(self.accepted, numbers),
            choices=_at(self.choices, numbers),
            right=None if self.right is None else self.right[at],
            groups=None if self.groups is None else self.groups[numbers],
        )

    def written(self, which: Literal["accepted", "choices"], places: Sequence[int]) -> tuple[AnswerRows, Tensor]:
        """The questions at some places with every further answer that is accepted, or with every choice.

        Returns:
            the rows one after the other, and the place that each belongs to; no rows where there are none.
        """
        lists: Sequence[Sequence[Whole]] = getattr(self, which) or [()] * len(self)
        found = [(place, whole) for place in places for whole in lists[place]]
        masks = [[False] * (len(ids) - 1 - answer) + [True] * answer + [False] for _, (ids, answer) in found]
        rows = AnswerRows.stack([whole.token_ids for _, whole in found], masks, self.pad)
        return rows, torch.tensor([place for place, _ in found], dtype=torch.long)

    def split(self, size: int) -> list[AnswerRows]:
        """Parts of at most so many rows, in order."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def each_accepted(self) -> list[tuple[AnswerRows, NDArray[np.bool_]]]:
        """These rows, and then the same questions with each further answer that is accepted; and which of them count.

        All have as many rows: one that has fewer answers than another keeps its own where there is none, which does not
        count again, as an answer does not that begins with another one. Those that count exclude each other.
        """
        lists = self.accepted or [()] * len(self)
        own = [Whole(tuple(row), length) for row, length in zip(self.token_ids.tolist(), self.lengths.tolist(),
                                                                strict=True)]  # fmt: skip
        answers = [[whole.token_ids[-1 - whole.answer : -1] for whole in (each, *others)]
                   for each, others in zip(own, lists, strict=True)]  # fmt: skip
        counts = [[is_first_of_its_kind(each, number) for number in range(len(each))] for each in answers]
        found = [(self, np.array([each[0] for each in counts], bool))]
        for number in range(max(map(len, lists), default=0)):
            wholes = [others[number] if number < len(others) else each for others, each in zip(lists, own, strict=True)]
            masks = [[False] * (len(ids) - 1 - answer) + [True] * answer + [False] for ids, answer in wholes]
            rows = AnswerRows.stack([whole.token_ids for whole in wholes], masks, self.pad)
            found.append((rows, np.array([number + 1 < len(each) and each[number + 1] for each in counts], bool)))
        return found

    @property
    def lengths(self) -> Tensor:
        """Tokens of each answer, (B,)."""
        return self.answer.sum(1)

    @property
    def num_answer_tokens(self) -> int:
        """Tokens of all answers: what a mean loss is a mean over."""
        return int(self.answer.sum())

    @property
    def shown(self) -> Tensor | None:
        """Which tokens are no padding, bool (B, T); None if none is."""
        return None if self.pad is None else (self.token_ids != self.pad).cummax(1).values

    @property
    def first_answers(self) -> Tensor:
        """The first token of each answer, (B,)."""
        return self.token_ids.gather(1, self.answer.int().argmax(1, keepdim=True))[:, 0]

    def answer_ids(self) -> list[tuple[int, ...]]:
        """The tokens of each answer."""
        width = self.token_ids.shape[1]
        lengths = self.lengths.tolist()
        return [
            tuple(row[width - 1 - length : -1]) for row, length in zip(self.token_ids.tolist(), lengths, strict=True)
        ]

    def questions(self) -> list[tuple[int, ...]]:
        """What each row asks, its text left out."""
        return [()] * len(self) if self.asked is None else [tuple(each) for each in self.asked.tolist()]

    def right_ids(self) -> list[set[tuple[int, ...]]]:
        """The tokens of every answer to each row that is right."""
        accepted = self.accepted or [()] * len(self)
        return [
            {answer, *(whole.token_ids[-1 - whole.answer : -1] for whole in others)}
            for answer, others in zip(self.answer_ids(), accepted, strict=True)
        ]

    def first_tokens(self) -> AnswerRows:
        """The same questions with the first tokens of their answers alone: rows whose answer is one token.

        What reads or writes activations takes such rows. Those whose answers are one token stay as they are.
        """
        return self._cut(torch.ones_like(self.lengths))

    def each_token(self) -> AnswerRows:
        """One row for every token of every answer, whose prompt ends with the tokens of the answer before it.

        The mean loss of these rows' answers is that of the whole answers.
        """
        lengths = self.lengths
        number = torch.arange(len(self), device=lengths.device).repeat_interleave(lengths)
        starts = lengths.cumsum(0) - lengths
        place = torch.arange(len(number), device=lengths.device) - starts.repeat_interleave(lengths)
        return self[number]._cut(place + 1)

    def _cut(self, kept: Tensor) -> AnswerRows:
        """Rows that end after so many tokens (B,) of their answers, of which only the last is the answer."""
        gone = self.lengths - kept
        if not gone.any():
            return self
        width = self.token_ids.shape[1]
        column = torch.arange(width, device=gone.device) - gone[:, None]
        if (self.pad is None) and bool((gone != gone[0]).any()):
            raise ValueError("rows: answers of several lengths, but no token to fill shorter rows with")
        ids = torch.where(column >= 0, self.token_ids.gather(1, column.clamp(min=0)), self.pad or 0)
        ids[:, -1] = self.token_ids[:, -1]
        least = int(gone.min())
        kept_too = ("pad", "other", "labels", "types", "asked", "groups")
        return AnswerRows.one_token(ids[:, least:], **{name: getattr(self, name) for name in kept_too})

    def without_empty_columns(self, least: int = 0) -> AnswerRows:
        """The same rows without the columns that are padding in all of them, as long as so many columns are left."""
        if self.shown is None or not len(self):
            return self
        first = min(int(self.shown.any(0).int().argmax()), max(self.token_ids.shape[1] - least, 0))
        if not first:
            return self
        return dataclasses.replace(self, token_ids=self.token_ids[:, first:], answer=self.answer[:, first:])

    def prompts(self) -> tuple[Tensor, Tensor | None]:
        """What comes before the answers.

        Returns:
            token ids (B, T'), whose last position predicts the answer's first token, and which of them are no padding,
            bool (B, T'), None if none is.
        """
        rows = self.first_tokens()
        return rows.token_ids[:, :-2], None if rows.shown is None else rows.shown[:, :-2]


def _at(lists: Sequence[Sequence[Whole]] | None, numbers: slice | NDArray[np.int64]) -> list[Sequence[Whole]] | None:
    if lists is None:
        return None
    return list(lists[numbers]) if isinstance(numbers, slice) else [lists[number] for number in numbers.tolist()]


def is_first_of_its_kind(answers: Sequence[Sequence[int]], number: int) -> bool:
    """Whether an answer begins with no other one; of equal ones the first."""
    own = tuple(answers[number])
    others = [(place, tuple(each)) for place, each in enumerate(answers) if place != number]
    return not any(own[: len(each)] == each and (each != own or place < number) for place, each in others)
