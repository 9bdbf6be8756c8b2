from __future__ import annotations

import pytest
import torch

from ftmech_hf.analysis.tampering import all_noisy, all_rounded, noisy, rounded

WEIGHT = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_row_has_as_many_steps_as_its_bits_allow_and_keeps_its_largest(bits: int) -> None:
    found = rounded(WEIGHT, bits)
    for row, was in zip(found, WEIGHT, strict=True):
        assert len(row.unique()) <= 2**bits - 1
        assert float(row.abs().max()) == pytest.approx(float(was.abs().max()))
        step = float(was.abs().max()) / (2 ** (bits - 1) - 1)
        assert float((row - was).abs().max()) <= step / 2 + 1e-6
    assert torch.equal(rounded(WEIGHT.T, bits, axis=1).T, found), "a matrix that is kept turned"
    assert torch.allclose(rounded(found, bits), found), "what is rounded stays"


def test_a_change_below_half_a_step_is_undone_and_a_larger_one_is_not() -> None:
    coarse = rounded(WEIGHT, 4)
    step = coarse.abs().amax(1, keepdim=True) / 7
    largest = coarse.abs() == coarse.abs().amax(1, keepdim=True)
    for share, undone in ((0.4, True), (0.6, False)):
        changed = torch.where(largest, coarse, coarse + share * step)
        assert torch.allclose(rounded(changed, 4), coarse, atol=1e-6) == undone


def test_a_row_of_zeros_stays() -> None:
    assert not rounded(torch.zeros(2, 3), 8).any()


def test_noise_has_the_size_that_is_asked_for_and_comes_from_its_seed() -> None:
    weight = 3.0 * torch.randn(200, 200, generator=torch.Generator().manual_seed(1))
    noise = noisy(weight, 0.1, torch.Generator().manual_seed(0)) - weight
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(noise.mean())) < 0.01
    weights = {"a": WEIGHT, "b": WEIGHT}
    one, again, other = (all_noisy(weights, 0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one["a"], again["a"])
    assert not torch.equal(one["a"], other["a"])
    assert not torch.equal(one["a"], one["b"]), "each matrix has its own"
    assert torch.equal(all_rounded(weights, {"a": 0, "b": 0}, 3)["b"], rounded(WEIGHT, 3))


def test_experts_are_tampered_with_one_by_one() -> None:
    """As if each were a matrix of its own: of its own steps, and noise in its own size."""
    experts = torch.stack([WEIGHT, 100 * WEIGHT])
    for axis in (0, 1):
        each = torch.stack([rounded(one, 3, axis=axis) for one in experts])
        assert torch.equal(rounded(experts, 3, axis=axis), each)
    large = torch.stack([torch.full((50, 40), 1.0), torch.randn(50, 40)]) * torch.linspace(0.1, 1, 40)
    large[1] *= 50
    sizes = (noisy(large, 0.1, torch.Generator().manual_seed(0)) - large).std((-2, -1)) / large.std((-2, -1))
    assert sizes.tolist() == pytest.approx([0.1, 0.1], rel=0.1)


def test_a_row_of_next_to_nothing_is_no_nan_in_half_precision() -> None:
    for weight in (torch.zeros(2, 3), torch.full((2, 3), 1e-7)):
        found = rounded(weight.half(), 8)
        assert found.dtype == torch.float16
        assert found.isfinite().all()
