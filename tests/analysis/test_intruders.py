"""A planted rank-one change has exactly one intruder dimension, of a known cosine; one along a known direction none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ftmech_hf.analysis.intruders import BAR, find_intruders, intruders_of

OUTPUTS, INPUTS = 64, 48
SIZES = torch.linspace(4, 1, 36)


def bases(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Orthogonal directions of outputs and of inputs."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for n in (OUTPUTS, INPUTS))  # type: ignore[return-value]


LEFT, RIGHT = bases()
WEIGHT = LEFT[:, :36] * SIZES @ RIGHT[:, :36].T
NEW = RIGHT[:, 40]
"""Inputs that the matrix does not read."""


@pytest.mark.parametrize("mixed", [9, 16, 36])
def test_one_planted_direction_is_one_intruder_with_its_cosine_and_its_place(mixed: int) -> None:
    """Of a mixture of so many known directions in equal parts the cosine with each is 1 over the root of that."""
    direction = LEFT[:, :mixed].sum(1) / mixed**0.5
    (found,) = intruders_of(WEIGHT, WEIGHT + 1e4 * torch.outer(direction, NEW))
    assert found.number == 0
    assert found.value == pytest.approx(1e4, rel=1e-4)
    assert found.cosine == pytest.approx(mixed**-0.5, abs=1e-3)
    assert abs(float(found.direction @ direction)) == pytest.approx(1.0, abs=1e-5)


def test_a_direction_that_the_base_never_writes_has_no_cosine_and_its_place_among_the_values() -> None:
    found = intruders_of(WEIGHT, WEIGHT + 3.5 * torch.outer(LEFT[:, 50], NEW))
    assert [(each.number, round(each.value, 4)) for each in found] == [(int((SIZES > 3.5).sum()), 3.5)]
    assert found[0].cosine == pytest.approx(0.0, abs=1e-5)
    assert intruders_of(WEIGHT, WEIGHT + 0.5 * torch.outer(LEFT[:, 50], NEW)) == [], "not among the main directions"
    assert len(intruders_of(WEIGHT, WEIGHT + 0.5 * torch.outer(LEFT[:, 50], NEW), main=37)) == 1


@pytest.mark.parametrize("times", [2.0, 1.5])
def test_what_rounding_leaves_of_a_matrix_of_few_directions_is_none(times: float) -> None:
    low = LEFT[:, :3] * SIZES[:3] @ RIGHT[:, :3].T
    assert intruders_of(low, times * low) == []
    assert intruders_of(WEIGHT, times * low) == []
    assert len(intruders_of(low, times * low + torch.outer(LEFT[:, 50], NEW))) == 1


def test_known_directions_are_none_however_much_they_grow() -> None:
    assert intruders_of(WEIGHT, WEIGHT) == []
    assert intruders_of(WEIGHT, 3 * WEIGHT) == []
    assert intruders_of(WEIGHT, WEIGHT + 1e3 * torch.outer(LEFT[:, 5], NEW)) == []
    half = (LEFT[:, 0] + LEFT[:, 1]) / 2**0.5  # a cosine of 0.71 with each
    assert intruders_of(WEIGHT, WEIGHT + 1e4 * torch.outer(half, NEW)) == []
    assert len(intruders_of(WEIGHT, WEIGHT + 1e4 * torch.outer(half, NEW), bar=0.8, main=1)) == 1


def test_scaled_to_nothing_the_base_is_left_and_at_one_the_matrix() -> None:
    planted = WEIGHT + 50 * torch.outer(LEFT[:, 50], NEW) + 20 * torch.outer(LEFT[:, 51], RIGHT[:, 41])
    found, same = find_intruders({"m": WEIGHT, "n": WEIGHT}, [{"m": planted, "n": WEIGHT}, {"m": WEIGHT, "n": WEIGHT}])
    assert found.number == 2
    assert found.summary() == {"intruders": 2, "matrix": "m"}
    assert [row["matrix"] for row in found.rows()] == ["m", "m"]
    torch.testing.assert_close(found.scaled("m", planted, 0.0), WEIGHT, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scaled("m", planted, 1.0), planted)
    half = torch.linalg.svdvals(found.scaled("m", planted, 0.5))
    assert half[:3].tolist() == pytest.approx([25.0, 10.0, 4.0], rel=1e-4)
    assert torch.equal(found.scaled("n", WEIGHT, 0.0), WEIGHT)
    assert same.summary() == {"intruders": 0, "matrix": None}
    assert BAR == 0.5


@pytest.mark.parametrize("outputs", [32, 256])
def test_what_the_docstring_says_of_directions_by_chance(outputs: int) -> None:
    known = torch.linalg.qr(torch.randn(outputs, outputs, generator=torch.Generator().manual_seed(1))).Q
    drawn = torch.randn(outputs, 200, generator=torch.Generator().manual_seed(2))
    largest = (known.T @ (drawn / drawn.norm(dim=0))).abs().amax(0).mean()
    assert float(largest) == pytest.approx((2 * torch.tensor(outputs).log() / outputs).sqrt().item(), abs=0.06)


def test_of_a_base_that_is_nothing_every_direction_is_new() -> None:
    after = torch.diag(torch.tensor([3.0, 2.0, 0.0]))
    assert [each.cosine for each in intruders_of(torch.zeros(3, 3), after)] == [0.0, 0.0]
