from __future__ import annotations

import itertools
import math
import random

import pytest

from ftmech_hf.statistics.floors import FloorResult, lead, measure_floor


def test_the_floor_is_the_best_of_all_constants_and_the_guess_is_chosen_elsewhere() -> None:
    generator = random.Random(0)
    for rows in (1, 7, 60):
        answers = [(generator.choice([1, 1, 1, 2, 3]),) for _ in range(rows)]
        others = [(generator.choice([2, 2, 2, 1]),) for _ in range(40)]
        found = measure_floor(answers, others)
        assert found.rows == rows
        assert found.floor == max(sum(each == (word,) for each in answers) for word in range(5)) / rows
        # the most frequent answer of the other rows is 2, however often it is right here
        assert found.text_free == answers.count((2,)) / rows


def test_numbers_worked_out_by_hand() -> None:
    answers = [(5,), (5,), (5,), (6,), (7, 1), (7, 1), (7, 2), (7,)]
    others = [(7, 1), (7, 1), (5,)]
    assert measure_floor(answers, others) == FloorResult(rows=8, floor=3 / 8, text_free=2 / 8)
    # (7, 1) and (7, 2) are two answers: four of eight begin with 7, and no answer is right for four
    assert measure_floor(answers, [(9,)]).text_free == 0


def test_a_question_is_answered_by_itself_and_one_that_is_new_by_what_is_most_frequent() -> None:
    answers, questions = [(1,), (1,), (2,), (2,), (3,)], ["a", "a", "b", "b", "new"]
    others, asked = [(1,), (2,), (2,), (3,), (3,), (3,)], ["a", "b", "b", "c", "c", "c"]
    found = measure_floor(answers, others, questions=questions, other_questions=asked)
    assert (found.floor, found.text_free) == (2 / 5, 1.0)
    # the control: without their questions the same rows give the constant of the others alone
    assert measure_floor(answers, others).text_free == 1 / 5


def test_no_constant_beats_the_floor_and_the_order_of_rows_is_nothing() -> None:
    answers, others = [(1,), (2,), (2,), (1,), (4,)], [(4,), (2,), (1,), (1,), (2,)]
    results = {measure_floor(list(a), list(o)) for a in itertools.permutations(answers) for o in (others, others[::-1])}
    (found,) = results
    assert found.text_free == 2 / 5  # of two that are as frequent the smaller
    assert found.floor >= found.text_free


def test_rows_are_needed_on_both_sides() -> None:
    for answers, others in (([], [(1,)]), ([(1,)], [])):
        with pytest.raises(ValueError, match="expected at least one of each"):
            measure_floor(answers, others)


def test_the_lead_is_0_at_the_floor_and_1_at_the_top() -> None:
    assert (lead(0.86, 0.86), lead(1.0, 0.86), lead(0.0, 0.5)) == (0.0, 1.0, -1.0)
    assert lead(0.6, 0.2) == pytest.approx(0.5)
    assert lead(0.9, 0.8) == pytest.approx(lead(0.5, 0.0))
    assert lead(0.7, 0.5, top=0.9) == pytest.approx(0.5)
    assert lead(1.0, 0.2, top=0.6) == pytest.approx(2)
    assert math.isnan(lead(1.0, 1.0))
    assert math.isnan(lead(0.5, 0.5, top=0.4))


def test_an_answer_that_is_accepted_is_right_as_well() -> None:
    answers, others = [(1,), (2,), (3,), (4,)], [(9,), (9,), (1,)]
    right = [{(1,)}, {(2,), (9,)}, {(3,), (7,)}, {(4,), (7,), (9,)}]
    found = measure_floor(answers, others, right=right)
    assert found == FloorResult(rows=4, floor=2 / 4, text_free=2 / 4)
    assert measure_floor(answers, [(5,)], right=right).text_free == 0
    assert measure_floor(answers, others).text_free == 0
