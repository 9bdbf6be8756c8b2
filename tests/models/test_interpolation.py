from __future__ import annotations

import pytest
import torch

from ftmech_hf.models.interpolation import interpolate_weights, mix_weights
from tests.conftest import make_gpt2, make_llama


def test_the_ends_are_exact_and_stay_as_they_are() -> None:
    first, second = make_gpt2(20, seed=0), make_gpt2(20, seed=1)
    for alpha, end in ((0.0, first), (1.0, second)):
        between = interpolate_weights(first, second, alpha)
        assert all(torch.equal(p, q) for p, q in zip(between.parameters(), end.parameters(), strict=True))
    with torch.no_grad():
        between.lm_head.weight.zero_()
    assert torch.equal(second.lm_head.weight, make_gpt2(20, seed=1).lm_head.weight)


@pytest.mark.parametrize("alpha", [0.25, 1.5, -0.5])
def test_what_is_linear_in_the_weights_is_interpolated(alpha: float) -> None:
    """Of two models that differ in the unembedding alone, logits are interpolated exactly."""
    first, second = make_gpt2(20), make_gpt2(20)
    with torch.no_grad():
        second.lm_head.weight.copy_(make_gpt2(20, seed=3).lm_head.weight)
    rows = torch.randint(0, 20, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ends = [model(rows).logits for model in (first, second)]
        found = interpolate_weights(first, second, alpha)(rows).logits
    assert torch.allclose(found, (1 - alpha) * ends[0] + alpha * ends[1], atol=1e-5)
    assert not torch.allclose(found, ends[0], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.5, -0.5])
def test_in_sixteen_bits_a_mixture_is_rounded_once(alpha: float, dtype: torch.dtype) -> None:
    first, second = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(mix_weights(first, first, alpha), first), "what is equal in both models stays"
    exact = first.double() + alpha * (second.double() - first.double())
    mixed = mix_weights(first, second, alpha)
    assert mixed.dtype == dtype
    apart = (mixed.double() - exact).abs() - 1e-6  # float32 rounds too, far less
    assert (apart <= torch.finfo(dtype).eps / 2 * exact.abs()).all()


def test_models_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"other names or shapes: .*weight"):
        interpolate_weights(make_gpt2(20), make_gpt2(21), 0.5)
    with pytest.raises(ValueError, match="other names or shapes"):
        interpolate_weights(make_gpt2(20), make_llama(20), 0.5)


def test_many_models_on_a_line_take_the_memory_of_one() -> None:
    first, second = make_gpt2(20, seed=0), make_gpt2(20, seed=1)
    held = interpolate_weights(first, second, 0.25)
    for alpha in (0.5, 1.0, 0.75):
        assert interpolate_weights(first, second, alpha, into=held) is held
        expected = interpolate_weights(first, second, alpha)
        assert all(torch.equal(p, q) for p, q in zip(held.parameters(), expected.parameters(), strict=True))
    with pytest.raises(ValueError, match="other names or shapes"):
        interpolate_weights(first, second, 0.5, into=make_gpt2(21))
