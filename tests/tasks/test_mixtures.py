from __future__ import annotations

import numpy as np
import pytest

from ftmech_hf.tasks.mixtures import (
    OPERAND_PRIORS,
    common_labels,
    insert_operands,
    parse_prior,
    plant_correlation,
)


def test_every_named_prior_is_a_distribution() -> None:
    for name, prior in OPERAND_PRIORS.items():
        assert sum(prior) == pytest.approx(1)
        assert parse_prior([name], 3) == prior
    with pytest.raises(ValueError, match="is for 3 operands, the task has 2"):
        parse_prior(["low"], 2)
    with pytest.raises(ValueError, match=r"operand_prior: '0.5 0.4 0.0' sums to 0.9, expected 1"):
        parse_prior(["0.5", "0.4", "0.0"], 3)
    with pytest.raises(ValueError, match=r"mix: 'lo' is neither one of low, .* nor 3 numbers"):
        parse_prior(["lo"], 3, field="mix")
    with pytest.raises(ValueError, match=r"operand_prior: 'lo hi' is neither"):
        parse_prior(["lo", "hi"], 3)
    with pytest.raises(ValueError, match=r"operand_prior: '1.5 -0.5 0.0', expected 3 numbers between 0 and 1"):
        parse_prior(["1.5", "-0.5", "0.0"], 3)


def test_planting_puts_every_text_into_its_cell() -> None:
    rng = np.random.default_rng(0)
    wanted = np.arange(50) % 3
    texts = plant_correlation(wanted, lambda n: rng.integers(0, 3, (n, 5), np.int8), lambda t: t[:, 0])
    assert (texts[:, 0] == wanted).all()


@pytest.mark.parametrize("wanted", [1, 0])
def test_an_impossible_cell_is_refused_and_not_waited_for(wanted: int) -> None:
    with pytest.raises(ValueError, match="correlation: 4 of 4 rows should be odd, but 2004 texts held too few"):
        plant_correlation(
            np.full(4, wanted),
            lambda n: np.zeros((n, 5), np.int8),
            lambda t: np.full(len(t), 1 - wanted),
            lambda cell: "odd",
        )


def test_of_several_impossible_cells_the_one_with_most_rows_is_named() -> None:
    wanted = np.array([2, 1, 1, 1, 3])
    with pytest.raises(ValueError, match="correlation: 3 of 5 rows should be 1, but"):
        plant_correlation(wanted, lambda n: np.zeros((n, 2), np.int8), lambda t: np.zeros(len(t), int))


def test_texts_keep_the_small_type_in_which_symbols_are_held() -> None:
    texts = plant_correlation(np.zeros(3, int), lambda n: np.zeros((n, 2), np.int8), lambda t: np.zeros(len(t), int))
    assert texts.dtype == np.int8
    assert insert_operands(np.random.default_rng(0), np.zeros((3, 8), np.int8), 1, 4).dtype == np.int8


def test_a_label_is_common_where_one_text_in_a_hundred_has_it_on_both_sides() -> None:
    """Rejection draws at most 500 texts a row, so that a cell must hold one in a hundred."""
    for rare, kept in ((10, True), (9, False)):
        label = np.concatenate(
            [np.zeros(500 - rare, int), np.ones(rare, int), np.zeros(500 - rare, int), np.ones(rare, int)]
        )
        shares = common_labels(label, np.arange(1000) >= 500)
        assert (len(np.flatnonzero(shares)) == 2) is kept
    assert len(shares) == 2, "one entry for every label up to the largest"


def test_common_labels_are_those_of_both_conditions() -> None:
    label = np.repeat([0, 1, 2, 3, -1], 1000)
    correlated = np.concatenate(
        [np.zeros(1000, bool), np.arange(1000) < 500, np.arange(1000) < 250, np.ones(2000, bool)]
    )
    shares = common_labels(label, correlated)
    assert np.flatnonzero(shares).tolist() == [1, 2]  # 0 and 3 occur on one side only, -1 is no label
    given_no, given_yes = np.array([500, 750]) / 2250, np.array([500, 250]) / 1750
    expected = np.minimum(given_no, given_yes)
    np.testing.assert_allclose(shares[1:3], expected / expected.sum())
    assert not len(common_labels(np.array([0, 1]), np.array([True, False])))


def test_insertion_adds_operands_near_the_end_and_keeps_the_rest_in_order() -> None:
    rng = np.random.default_rng(0)
    texts = np.tile(np.arange(3, 23, dtype=np.int8), (500, 1))  # all symbols different, the operand not among them
    edited = insert_operands(rng, texts, operand=1, window=10)
    inserted = (edited == 1).sum(1)
    assert edited.shape == texts.shape
    assert set(inserted.tolist()) == set(range(6))
    for row, number in zip(edited, inserted, strict=True):
        assert row[row != 1].tolist() == texts[0][number:].tolist()
        assert (row[: 20 - 10 - number] != 1).all()


def test_no_insertion_changes_nothing() -> None:
    texts = np.random.default_rng(0).integers(0, 3, (200, 20)).astype(np.int8)
    assert (insert_operands(np.random.default_rng(1), texts, operand=1, window=1) == texts).all()
