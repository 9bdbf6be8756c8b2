from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftmech_hf.tasks.stories.packing import best_fit, pack_rows

PAD = 0


def documents_of(lengths: list[int]) -> list[list[int]]:
    """Each of tokens of its own."""
    numbers = itertools.count(1)
    return [[next(numbers) for _ in range(length)] for length in lengths]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_every_document_is_in_one_row_that_holds_it(lengths: list[int]) -> None:
    rows = best_fit(lengths, 12)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in row) <= 12 for row in rows)
    # best fit: no two rows could have been one
    assert sum(sum(lengths[number] for number in row) * 2 <= 12 for row in rows) <= 1


def test_the_best_fit_is_the_fullest_row() -> None:
    assert best_fit([8, 7, 2, 5], 10) == [[0, 2], [1], [3]]


@given(st.lists(st.integers(2, 20), min_size=1, max_size=60), st.integers(1, 6))
def test_rows_hold_the_first_documents_whole_and_beginnings_of_others(lengths: list[int], num_rows: int) -> None:
    documents = documents_of(lengths)
    rows = pack_rows(documents, num_rows=num_rows, row_length=12, pad=PAD)
    assert rows.shape == (num_rows, 12)
    place = {document[0]: number for number, document in enumerate(documents)}
    whole, cut = [], []
    for row in rows.tolist():
        text = list(itertools.takewhile(lambda token: token != PAD, row))
        assert set(row[len(text) :]) <= {PAD}
        while text:
            number = place[text[0]]
            shown = documents[number][: len(text)]
            assert text[: len(shown)] == shown
            (whole if len(shown) == min(12, lengths[number]) else cut).append(number)
            text = text[len(shown) :]
    assert len({*whole, *cut}) == len(whole) + len(cut)


def test_room_is_left_only_where_documents_run_out() -> None:
    lengths = np.random.default_rng(0).integers(20, 90, 400).tolist()
    full = pack_rows(documents_of(lengths), num_rows=32, row_length=128, pad=PAD)
    assert (full == PAD).mean() < 0.005
    few = pack_rows(documents_of(lengths[:20]), num_rows=32, row_length=128, pad=PAD)
    assert sorted(few[few != PAD].tolist()) == list(range(1, sum(lengths[:20]) + 1))


def test_no_length_is_preferred() -> None:
    """Those that are whole are the first ones, whatever their lengths."""
    lengths = np.random.default_rng(1).integers(20, 90, 400).tolist()
    documents = documents_of(lengths)
    rows = pack_rows(documents, num_rows=32, row_length=128, pad=PAD)
    ends = [number for number, document in enumerate(documents) if document[-1] in rows]
    first = next(number for number in range(400) if number not in ends)
    assert len([number for number in ends if number > first]) <= 3  # a beginning that happened to be all of it


@pytest.mark.parametrize("length", [12, 13, 40])
def test_a_document_longer_than_a_row_is_cut(length: int) -> None:
    (document,) = documents_of([length])
    assert pack_rows([document], num_rows=1, row_length=12, pad=PAD)[0].tolist() == document[:12]
