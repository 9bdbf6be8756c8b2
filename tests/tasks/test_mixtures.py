from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ftmech_hf.tasks.mixtures import (
    OPERAND_PRIORS,
    parse_prior,
    plant_correlation,
    spread_counts,
    stratified_labels,
    tie_places,
)
from ftmech_hf.tasks.operators import index


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


@pytest.mark.parametrize("shares", [["0.333333", "0.333333", "0.333334"], ["0.3333333"] * 3, ["0.5", "0.3", "0.2"]])
def test_what_is_taken_for_a_distribution_can_be_drawn_by(shares: list[str]) -> None:
    prior = parse_prior(shares, 3)
    assert np.random.default_rng(0).choice(3, 2, p=prior).shape == (2,)
    assert prior == pytest.approx([float(share) for share in shares], abs=1e-6)
    if sum(map(float, shares)) == 1:
        assert prior == tuple(map(float, shares))


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
    assert spread_counts(np.random.default_rng(0), np.zeros((3, 8), np.int8), (0, 1), 3, 4, None).dtype == np.int8


def labels_of(**occurs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Texts by label: how many without the correlation and how many with it."""
    label = np.concatenate([np.repeat(int(name[1:]), sum(both)) for name, both in occurs.items()])
    correlated = np.concatenate([np.arange(sum(both)) >= both[0] for both in occurs.values()])
    return label, correlated


def test_labels_are_those_that_occur_often_enough_on_both_sides() -> None:
    """Of K labels each is one text in 50 K; a label on one side only is none, and no answer (-1) is no label."""
    label, correlated = labels_of(_0=(4000, 0), _1=(1000, 1000), _2=(500, 200), _3=(0, 2000), _4=(1295, 5))
    label, correlated = np.concatenate([label, np.full(500, -1)]), np.concatenate([correlated, np.arange(500) < 250])
    assert stratified_labels(label, correlated, at_least=2, asked="count b").tolist() == [1, 2]
    with pytest.raises(
        ValueError, match=r"min_labels: 3, but only 2 labels of count b occur .*: 1 in 9.52%, 2 in 1.90%, 4 in 0.05%\)"
    ):
        stratified_labels(label, correlated, at_least=3, asked="count b")


@pytest.mark.parametrize(("rare", "kept"), [(10, 2), (9, 1)])
def test_the_rarest_of_two_labels_is_one_text_in_a_hundred(rare: int, kept: int) -> None:
    label, correlated = labels_of(_0=(500 - rare, 500 - rare), _7=(rare, rare))
    assert len(stratified_labels(label, correlated, at_least=1, asked="")) == kept


def test_the_more_labels_the_rarer_each_may_be() -> None:
    """Ten labels of which each is one text in 500 cost as many draws as one that is one in 50."""
    both = {f"_{number}": (2, 2) for number in range(10)}
    label, correlated = labels_of(**both, _10=(480, 480))
    assert len(stratified_labels(label, correlated, at_least=1, asked="")) == 11
    label, correlated = labels_of(**{name: (1, 1) for name in both}, _10=(490, 490))
    assert stratified_labels(label, correlated, at_least=1, asked="").tolist() == [10]


def test_no_label_on_both_sides_is_said() -> None:
    with pytest.raises(ValueError, match=r"only 0 labels .* \(of all texts, in the rarer condition: none\)"):
        stratified_labels(np.array([0, 1]), np.array([True, False]), at_least=1, asked="count b")


def spread(num_symbols: int = 3, offset: int | None = None, window: int = 10) -> tuple[np.ndarray, np.ndarray]:
    texts = np.random.default_rng(0).integers(0, num_symbols, (20_000, 14)).astype(np.int8)
    return texts, spread_counts(np.random.default_rng(1), texts, (0, 1), num_symbols, window, offset)


def counts_of(texts: np.ndarray, window: int = 10) -> np.ndarray:
    return np.stack([(texts[:, -window:] == operand).sum(1) for operand in (0, 1)], axis=1)


def test_counts_are_uniform_and_independent_up_to_half_of_the_window() -> None:
    found = counts_of(spread()[1])
    table = np.zeros((6, 6))
    np.add.at(table, tuple(found.T), 1)
    assert stats.chisquare(table.ravel()).pvalue > 1e-4
    assert stats.chisquare(np.bincount(counts_of(spread()[0])[:, 0], minlength=11)[:6]).pvalue < 1e-10  # it can fail


@pytest.mark.parametrize("offset", [1, -2, 0])
def test_with_an_offset_half_of_the_texts_have_it_and_first_counts_stay_uniform(offset: int) -> None:
    found = counts_of(spread(offset=offset)[1])
    has = found[:, 1] - found[:, 0] == offset
    by_chance = (6 - abs(offset)) / 36
    assert stats.binomtest(int(has.sum()), len(has), 0.5 + 0.5 * by_chance).pvalue > 1e-4
    possible = np.bincount(found[has, 0], minlength=6)[max(0, -offset) : 6 - max(0, offset)]
    assert stats.chisquare(possible).pvalue > 1e-4
    assert possible.sum() == has.sum()


def test_editing_replaces_as_few_symbols_as_the_counts_need_and_none_before_the_window() -> None:
    texts, edited = spread()
    assert (edited[:, :4] == texts[:, :4]).all()
    change = counts_of(edited) - counts_of(texts)
    change = np.concatenate([change, -change.sum(1, keepdims=True)], axis=1)  # the third symbol takes what is left
    assert ((edited != texts).sum(1) == np.maximum(change, 0).sum(1)).all()


def test_places_of_edits_are_spread_over_the_window() -> None:
    texts, edited = spread()
    by_place = (edited != texts)[:, -10:].sum(0)
    assert stats.chisquare(by_place).pvalue > 1e-4


def test_of_two_symbols_the_second_fills_what_the_first_leaves() -> None:
    _, edited = spread(num_symbols=2)
    found = counts_of(edited)
    assert (found.sum(1) == 10).all()
    assert stats.chisquare(np.bincount(found[:, 0], minlength=6)).pvalue > 1e-4


@pytest.mark.parametrize("offset", [1, 3, -2])
@pytest.mark.parametrize("num_symbols", [2, 3, 5])
def test_half_of_the_texts_have_tied_places_and_the_first_operand_stays(offset: int, num_symbols: int) -> None:
    texts = np.random.default_rng(0).integers(0, num_symbols, (4000, 40)).astype(np.int8)
    edited = tie_places(np.random.default_rng(1), texts, (0, 1), num_symbols, 4, offset)
    before, after = ([index(each, operand, 4) for operand in (0, 1)] for each in (texts, edited))
    assert (before[0] == after[0]).all()
    changed = (edited != texts).any(1)
    tied = after[1] - after[0] == offset
    assert tied[changed].all()
    assert not ((edited == 0) != (texts == 0)).any()
    found = before[0] > 0
    if num_symbols > 2:
        assert 0.2 < changed[found].mean() <= tied[found].mean() < 0.6
        assert (index(texts, 1, 4) - before[0] == offset)[found].mean() < 0.1
    # no more is replaced than must be: what stands after the place, one symbol there, and none before it
    place = np.where(tied, after[1], 0)
    columns = np.arange(40, 0, -1)
    assert not ((edited != texts) & (columns[None] > place[:, None]))[changed].any()
    lacking = 3 - ((texts == 1) & (columns[None] < place[:, None])).sum(1)
    at_place = texts[np.arange(len(texts)), 40 - np.maximum(place, 1)] != 1
    assert ((edited != texts).sum(1) == np.abs(lacking) + at_place)[changed].all()


def test_other_symbols_of_a_large_alphabet_stay_where_nothing_is_needed() -> None:
    texts = np.full((500, 8), 4, np.int8)
    edited = spread_counts(np.random.default_rng(0), texts, (1, 2), 5, 8, None)
    assert set(np.unique(edited)) == {1, 2, 4}
