from __future__ import annotations

import numpy as np
import pytest

from ftmech_hf.tasks.mixtures import OPERAND_PRIORS, insert_operands, parse_prior, plant_correlation


def test_every_named_prior_is_a_distribution() -> None:
    for name, prior in OPERAND_PRIORS.items():
        assert sum(prior) == pytest.approx(1)
        assert parse_prior([name], 3) == prior
    with pytest.raises(ValueError, match="is for 3 operands, the task has 2"):
        parse_prior(["low"], 2)


def test_planting_puts_the_correlation_exactly_where_it_is_wanted() -> None:
    rng = np.random.default_rng(0)
    wanted = np.arange(50) % 3 == 0
    texts = plant_correlation(wanted, lambda n: rng.integers(0, 3, (n, 5), np.int8), lambda t: t[:, 0] == 2)
    assert ((texts[:, 0] == 2) == wanted).all()


@pytest.mark.parametrize(("wanted", "kind"), [(True, "correlated"), (False, "uncorrelated")])
def test_an_impossible_correlation_is_refused_and_not_waited_for(wanted: bool, kind: str) -> None:
    with pytest.raises(ValueError, match=f"correlation_offset: 4 of 4 rows should be {kind}"):
        plant_correlation(
            np.full(4, wanted), lambda n: np.zeros((n, 5), np.int8), lambda t: np.full(len(t), not wanted)
        )


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
