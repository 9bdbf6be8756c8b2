"""Safe and unsafe prompts as a model reads them, and which answers refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ftmech_hf.jobs.answer_rows import AnswerRows
from ftmech_hf.jobs.behavior import Behavior
from ftmech_hf.statistics.clusters import Groups
from ftmech_hf.tasks.text.tokens import Whole

KINDS = ("safe", "unsafe")


class Asked(NamedTuple):
    """Both kinds of prompts, with which token a refusal begins, and the tokens of whole ones."""

    kinds: Mapping[str, Behavior]
    refusal: int
    refusals: tuple[tuple[int, ...], ...] = ()

    def prompts(self, split: str, kind: str) -> tuple[Tensor, Tensor | None]:
        """Token ids of one kind, and which are no padding."""
        rows: AnswerRows = getattr(self.kinds[kind], split)
        return rows.prompts()

    def groups(self, number: int) -> Groups:
        """What the first test prompts of both kinds are about, one kind after the other."""
        found = [self.kinds[kind].test.groups for kind in KINDS]
        if all(each is None for each in found):
            return None
        safe, unsafe = (np.arange(number) if each is None else each[:number] for each in found)
        return np.concatenate([safe, unsafe + safe.max() + 1])

    def refused_whole(self, kind: str) -> AnswerRows:
        """The test prompts of a kind with a refusal as their answer, and the others as further right ones."""
        rows = self.kinds[kind].test
        beginnings = [
            [each for each in row[: len(row) - 1 - length] if each != rows.pad]
            for row, length in zip(rows.token_ids.tolist(), rows.lengths.tolist(), strict=True)
        ]
        ends = rows.token_ids[:, -1].tolist()
        wholes = [
            [Whole((*begin, *refusal, end), len(refusal)) for refusal in self.refusals]
            for begin, end in zip(beginnings, ends, strict=True)
        ]
        ids = [list(first.token_ids) for first, *_ in wholes]
        answers = [[False] * (len(row) - 1 - len(self.refusals[0])) + [True] * len(self.refusals[0]) + [False]
                   for row in ids]  # fmt: skip
        pad = self.kinds[kind].pad
        return AnswerRows.stack(ids, answers, pad, accepted=[others for _, *others in wholes])
