"""A direction is taken out of the whole stream, put in behind one layer, and compared with one as long."""

from __future__ import annotations

import contextlib

import pytest
import torch

from ftmech_hf.activations import intervene
from ftmech_hf.analysis.direction import Writes, difference_in_means, put_in, random_direction, taken_out
from tests.conftest import make_gpt2

ROWS = torch.randint(3, 40, (8, 6), generator=torch.Generator().manual_seed(0))


def test_the_difference_of_means_points_from_one_kind_to_the_other() -> None:
    there, here = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    assert difference_in_means(there, here).tolist() == [2.0, -3.0]


def test_a_direction_by_chance_is_as_long_and_another_one() -> None:
    direction = torch.tensor([3.0, 0.0, 4.0, 0.0])
    one, other = (random_direction(direction, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert float(one.norm()) == pytest.approx(5.0)
    assert float(other.norm()) == pytest.approx(5.0)
    assert not torch.allclose(one, other)


@torch.no_grad()
def test_what_is_taken_out_is_nowhere_and_what_is_put_in_is_behind_its_layer() -> None:
    model, direction = make_gpt2(40), torch.randn(16, generator=torch.Generator().manual_seed(1))

    def streams(writes: Writes) -> list[torch.Tensor]:
        """How far along the direction what enters both blocks is."""
        found: list[torch.Tensor] = []
        with intervene(model, writes), contextlib.ExitStack() as hooks:
            for block in model.transformer.h:
                hooks.callback(block.ln_1.register_forward_pre_hook(lambda _, args: found.append(args[0])).remove)
            model(ROWS)
        return [each @ direction for each in found]

    plain, put, out = streams({}), streams(put_in(model, direction, 0)), streams(taken_out(model, direction))
    torch.testing.assert_close(put[0], plain[0])
    torch.testing.assert_close(put[1], plain[1] + direction.square().sum(), atol=1e-4, rtol=1e-4)
    for before, after in zip(plain, out, strict=True):
        assert float(after.abs().max()) < 1e-4 < float(before.abs().max())
    with pytest.raises(ValueError, match="direction: 0 points nowhere"):
        taken_out(model, torch.zeros(16))
