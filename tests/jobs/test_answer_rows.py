from __future__ import annotations

import dataclasses

import pytest
import torch

from ftmech_hf.jobs.answer_rows import AnswerRows, is_first_of_its_kind
from ftmech_hf.tasks.text.tokens import Whole

ROWS = AnswerRows.stack(
    [[5, 6, 7, 2], [5, 8, 9, 10, 2], [4, 5, 11, 2]],
    [[False, False, True, False], [False, True, True, True, False], [False, True, True, False]],
    0,
    other=torch.tensor([20, 21, 22]),
)


def test_rows_are_filled_on_the_left_and_say_where_the_answer_is() -> None:
    assert ROWS.token_ids.tolist() == [[0, 5, 6, 7, 2], [5, 8, 9, 10, 2], [0, 4, 5, 11, 2]]
    assert ROWS.lengths.tolist() == [1, 3, 2]
    assert ROWS.answer_ids() == [(7,), (8, 9, 10), (5, 11)]
    assert ROWS.first_answers.tolist() == [7, 8, 5]
    assert ROWS.num_answer_tokens == 6
    assert ROWS.shown is not None
    assert ROWS.shown.int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]


def test_prompts_end_where_the_answer_begins() -> None:
    token_ids, shown = ROWS.prompts()
    assert token_ids.tolist() == [[0, 5, 6], [0, 0, 5], [0, 0, 4]]
    assert shown is not None
    assert shown.int().tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 1]]
    first = ROWS.first_tokens()
    assert first.token_ids.tolist() == [[0, 5, 6, 7, 2], [0, 0, 5, 8, 2], [0, 0, 4, 5, 2]]
    assert first.lengths.tolist() == [1, 1, 1]
    # of answers of one length nothing is filled
    same = AnswerRows.stack([[3, 4, 5, 2], [6, 7, 8, 2]], [[False, True, True, False]] * 2, None)
    assert same.prompts()[0].tolist() == [[3], [6]]
    assert same.prompts()[1] is None


def test_every_token_of_an_answer_has_a_row_of_its_own() -> None:
    each = ROWS.each_token()
    shown = [[token for token in row if token] for row in each.token_ids.tolist()]
    assert shown == [[5, 6, 7, 2], [5, 8, 2], [5, 8, 9, 2], [5, 8, 9, 10, 2], [4, 5, 2], [4, 5, 11, 2]]
    assert each.first_answers.tolist() == [7, 8, 9, 10, 5, 11]


def test_parts_of_rows_keep_what_belongs_to_them() -> None:
    parts = ROWS.split(2)
    assert [len(part) for part in parts] == [2, 1]
    assert parts[1].answer_ids() == [(5, 11)]
    assert parts[1].other is not None
    assert parts[1].other.tolist() == [22]
    chosen = ROWS[[2, 0, 2]]
    assert chosen.first_answers.tolist() == [5, 7, 5]
    assert ROWS[[0]].without_empty_columns().token_ids.tolist() == [[5, 6, 7, 2]]
    assert ROWS.without_empty_columns() is ROWS
    labelled = AnswerRows.one_token(torch.arange(12).view(3, 4), labels={"a": torch.arange(3).numpy()})
    assert labelled[1:].labels["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "answer",
    [
        [[False, True, False, False]],  # not at the end
        [[True, False, True, False]],  # in two parts
        [[False, False, True, True]],  # the end is none of it
        [[False, False, False, False]],
    ],
)
def test_a_mask_that_is_no_answer_is_refused(answer: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match="answer: expected at least one token in every row, just before the last"):
        AnswerRows(token_ids=torch.tensor([[1, 2, 3, 4]]), answer=torch.tensor(answer))


def test_rows_that_cannot_be_one_tensor_are_refused() -> None:
    with pytest.raises(ValueError, match="rows: of several lengths, but no token to fill"):
        AnswerRows.stack([[1, 2, 3], [1, 2]], [[False, True, False], [True, False]], None)
    with pytest.raises(ValueError, match="expected bool, one per token"):
        AnswerRows(token_ids=torch.tensor([[1, 2, 3]]), answer=torch.tensor([[0, 1, 0]]))


def test_each_answer_that_is_accepted_stands_after_its_question() -> None:
    others = [[Whole((5, 6, 12, 13, 2), 2), Whole((5, 6, 14, 2), 1)], [], [Whole((4, 15, 2), 1)]]
    found = dataclasses.replace(ROWS, accepted=others).each_accepted()
    own, second, third = (rows for rows, _ in found)
    assert [counts.tolist() for _, counts in found] == [[True] * 3, [True, False, True], [True, False, False]]
    assert torch.equal(own.token_ids, ROWS.token_ids)
    assert second.answer_ids() == [(12, 13), (8, 9, 10), (15,)]
    assert second.token_ids.tolist() == [[5, 6, 12, 13, 2], [5, 8, 9, 10, 2], [0, 0, 4, 15, 2]]
    assert third.answer_ids() == [(14,), (8, 9, 10), (5, 11)]  # who has fewer keeps its own
    ((alone, counts),) = ROWS.each_accepted()
    assert alone == ROWS
    assert counts.all()


def test_an_answer_that_begins_with_another_one_does_not_count_beside_it() -> None:
    """What is written as the longer one is written as the shorter one as well."""
    answers = [(1, 2), (1,), (3,), (1, 2), (2, 1)]
    assert [is_first_of_its_kind(answers, number) for number in range(5)] == [False, True, True, False, True]
    assert [is_first_of_its_kind([(1, 2), (1, 2)], number) for number in range(2)] == [True, False]
