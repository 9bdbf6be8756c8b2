from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ftmech_hf.training.muon import Muon, orthogonalize
from tests.conftest import make_gpt2


def _plain_newton_schulz(x: Tensor) -> Tensor:
    """The iteration as it is written down: every step multiplies the matrix itself."""
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8)])
def test_it_is_the_plain_iteration(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack(
        [_plain_newton_schulz(m) if shape[0] <= shape[1] else _plain_newton_schulz(m.mT).mT for m in matrices]
    )
    torch.testing.assert_close(orthogonalize(matrices), expected, rtol=1e-10, atol=1e-12)


def test_singular_values_come_near_one_and_directions_stay() -> None:
    matrix = torch.randn(16, 40, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.einsum("ik,ij,kj->k", u, orthogonalize(matrix), vh)
    assert 0.6 < values.min() < values.max() < 1.3
    assert torch.linalg.svdvals(matrix).max() > 3  # it was far from orthogonal


def test_a_zero_matrix_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_training_goes_as_with_torchs_own() -> None:
    """Which rounds to bfloat16, and so agrees to two digits; with another momentum it does not."""
    batches = torch.randint(0, 40, (12, 4, 12), generator=torch.Generator().manual_seed(0))

    def train(kind: type[torch.optim.Optimizer], momentum: float) -> Tensor:
        model = make_gpt2(40)
        matrices = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
        start = [p.detach().clone() for p in matrices]
        optimizer = kind(matrices, lr=0.01, weight_decay=0.1, momentum=momentum)  # type: ignore[call-arg]
        for token_ids in batches:
            model(token_ids, labels=token_ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([(p.detach() - before).flatten() for p, before in zip(matrices, start, strict=True)])

    ours, theirs, other = train(Muon, 0.95), train(torch.optim.Muon, 0.95), train(Muon, 0.0)
    assert (ours - theirs).norm() < 0.05 * theirs.norm()
    assert (other - theirs).norm() > 0.2 * theirs.norm()


def test_only_matrices_are_taken() -> None:
    with pytest.raises(ValueError, match=r"params: one of shape \(3,\), expected matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
