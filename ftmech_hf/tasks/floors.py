"""What is right on a test set without reading its texts: the floor of a task's rows, counted on labels alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.statistics.floors import FloorResult, measure_floor
from ftmech_hf.tasks.schema import BLOCK, PROMPT, Rows, RowStream, Task


def beside_text(task: Task, rows: Rows) -> NDArray[np.int64]:
    """What prompts say beside their text, token ids (B, K): operator, operand and parameter in the procedural task.

    The marks around the text are among them, which are the same in all rows, and all there is where rows name no
    question, as those about letters. In a data set a prompt is text as a whole (K = 0). A group that such rows may have
    is no question either: none stands in two splits, so that no other row knows the answers of one.
    """
    if rows.answers is not None:
        return rows.token_ids[:, :0]
    columns = np.arange(rows.token_ids.shape[1])
    return rows.token_ids[:, np.setdiff1d(columns[PROMPT], columns[task.text])]


def _answers(rows: Rows) -> list[tuple[int, ...]]:
    """The whole answer of each row."""
    if rows.answers is None:
        return [(answer,) for answer in rows.token_ids[:, -2].tolist()]
    return [tuple(ids[mask].tolist()) for ids, mask in zip(rows.token_ids, rows.answers, strict=True)]


def _questions(task: Task, rows: Rows) -> list[tuple[int, ...]]:
    return [tuple(asked) for asked in beside_text(task, rows).tolist()]


def guess_rows(stream: RowStream, number: int) -> Rows:
    """Rows to choose a text-free guess on: of the validation split, or of the train split of a task that has none.

    Args:
        stream: the test set that is reported.
        number: how many of its rows are.
    """
    task, there = stream.task, stream.task.num_rows("validation")
    split = "validation" if there != 0 else "train"
    available = task.num_rows(split)
    wanted = max(number, BLOCK)  # more rows than are reported cost nothing, and choose better
    return RowStream(task, seed=stream.seed, split=split).rows(0, min(wanted, available or wanted))


def stream_floor(stream: RowStream, number: int) -> FloorResult:
    """The floor of the first rows of a test set; the text-free guess is chosen on :func:`guess_rows`.

    Args:
        stream: the test set.
        number: how many of its rows are reported.
    """
    reported, elsewhere = stream.rows(0, number), guess_rows(stream, number)
    return measure_floor(
        _answers(reported), _answers(elsewhere),
        questions=_questions(stream.task, reported), other_questions=_questions(stream.task, elsewhere),
    )  # fmt: skip
