from __future__ import annotations

import pytest
import torch

from ftmech_hf.models import directions
from ftmech_hf.models.directions import are_all, change_directions, keep_directions, turn_at_random


def make_change(rows: int, columns: int, rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + columns)
    return torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)


@pytest.mark.parametrize(("rows", "columns"), [(12, 7), (7, 12), (9, 9)])
def test_first_directions_are_those_of_the_singular_value_decomposition(rows: int, columns: int) -> None:
    delta = make_change(rows, columns, 5)
    directions = change_directions(delta)
    assert directions.shape == (min(rows, columns), 5)
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    for number in (1, 3, 5, 99):
        expected = left[:, :number] * values[:number] @ right[:number]
        assert torch.allclose(keep_directions(delta, directions, number), expected, atol=1e-4)
    # the control: the last directions are another matrix
    last = keep_directions(delta, directions.flip(1), 1)
    assert not torch.allclose(last, left[:, :1] * values[:1] @ right[:1], atol=1e-2)


@pytest.mark.parametrize(("rows", "columns"), [(70, 50), (50, 70)])
def test_of_a_large_matrix_the_first_directions_are_found(
    rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions, "LARGE", 20)
    monkeypatch.setattr(directions, "LOW_RANK", 8)
    adapter = make_change(rows, columns, 5)
    found = change_directions(adapter)
    assert found.shape == (min(rows, columns), 5)
    assert are_all(adapter, found)
    assert torch.allclose(keep_directions(adapter, found, 5), adapter, atol=1e-3)
    whole = make_change(rows, columns, 40) + 9 * make_change(rows, columns, 2)
    found = change_directions(whole)
    assert found.shape[1] == 8
    assert not are_all(whole, found)
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    nearest = left[:, :4] * values[:4] @ right[:4]
    kept = keep_directions(whole, found, 4)
    assert (whole - kept).norm() <= 1.01 * (whole - nearest).norm()
    # the control: as many directions by chance hold next to nothing
    assert (whole - keep_directions(whole, found.flip(1), 4)).norm() > 1.5 * (whole - nearest).norm()


def test_no_change_has_no_direction() -> None:
    zero = torch.zeros(4, 3)
    assert change_directions(zero).shape == (3, 0)
    assert torch.equal(keep_directions(zero, change_directions(zero), 2), zero)


def test_a_turned_change_keeps_its_singular_values_and_no_direction() -> None:
    delta = make_change(60, 40, 6)
    turned = turn_at_random(delta, torch.Generator().manual_seed(0))
    assert torch.allclose(torch.linalg.svdvals(turned), torch.linalg.svdvals(delta), atol=1e-4)
    assert abs(float((turned * delta).sum() / delta.square().sum())) < 0.1
    again = turn_at_random(delta, torch.Generator().manual_seed(0))
    assert torch.equal(turned, again)
    assert not torch.equal(turned, turn_at_random(delta, torch.Generator().manual_seed(1)))


def test_an_axis_that_is_not_turned_keeps_its_norms() -> None:
    delta = make_change(5, 30, 5)
    turned = turn_at_random(delta, torch.Generator().manual_seed(0), axes=(1,))
    assert torch.allclose(turned.norm(dim=1), delta.norm(dim=1), rtol=1e-5)
    assert not torch.allclose(turn_at_random(delta, torch.Generator().manual_seed(0)).norm(dim=1), delta.norm(dim=1))
