from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ftmech_hf.training.muon import Muon, orthogonalize
from ftmech_hf.training.objectives import next_token_loss
from ftmech_hf.training.settings import TrainConfig
from tests.conftest import make_gpt2, make_llama


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


SHAPES = [(128, 128), (192, 768), (128, 512), (3, 700), (1, 64)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def spectra(shape: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
    """Matrices in float64 as gradients are, beside the Gaussian one, whose singular values all lie near each other."""
    generator = torch.Generator().manual_seed(0)
    gaussian = torch.randn(*shape, dtype=torch.float64, generator=generator)
    u, values, vh = torch.linalg.svd(gaussian, full_matrices=False)
    k = torch.arange(1, len(values) + 1, dtype=torch.float64)
    yield "gaussian", gaussian
    for name, spectrum in (
        ("1/k", 1 / k),
        ("1/k^2", k**-2),
        ("rank 1", (k == 1).double()),
        ("rank 5 and noise", torch.where(k <= 5, 1.0, 1e-4)),
        ("six decades", torch.logspace(0, -6, len(k), dtype=torch.float64)),
    ):
        yield name, u * spectrum @ vh


def gradients() -> Iterator[tuple[str, Tensor]]:
    """Those of networks at their start: the rows of a batch are few, so their rank is low."""
    rows = torch.randint(3, 40, (2, 20), generator=torch.Generator().manual_seed(0))
    for make in (make_gpt2, make_llama):
        model = make(40)
        next_token_loss(model, rows).backward()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                assert parameter.grad is not None
                yield name, parameter.grad.double()


class RoundedProducts(TorchDispatchMode):
    """Matrix products of numbers with 10 bits after the point: what TF32 makes of float32 on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            assert all(each.dtype == torch.float32 for each in args)
            args = [((each.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32) for each in args]
        return func(*args, **(kwargs or {}))


def check_updates(matrices: Iterator[tuple[str, Tensor]], dtype: torch.dtype, products: str) -> None:
    """What a step of Muon adds to weights, against the plain iteration in float64 on the same gradient."""
    for name, matrix in matrices:
        weight = torch.nn.Parameter(torch.zeros(matrix.shape, dtype=dtype))
        weight.grad = matrix.to(dtype)
        tall = matrix.shape[0] > matrix.shape[1]
        given = weight.grad.double()
        expected = _plain_newton_schulz(given.mT).mT if tall else _plain_newton_schulz(given)
        with RoundedProducts() if products == "rounded" else contextlib.nullcontext():
            Muon([weight], lr=1.0, weight_decay=0.0).step()
        update = -weight.detach().double() / max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        assert torch.linalg.matrix_norm(update, ord=2) <= 1.3, name
        assert torch.cosine_similarity(update.flatten(), expected.flatten(), dim=0) >= 0.99, name
        assert (update - expected).norm() <= 0.05 * expected.norm(), name


@pytest.mark.parametrize("products", ["exact", "rounded"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_updates_are_bounded_and_right_whatever_the_dtype_and_the_spectrum(dtype: torch.dtype, products: str) -> None:
    for shape in SHAPES:
        check_updates(spectra(shape), dtype, products)
    check_updates(gradients(), dtype, products)


def test_the_check_above_can_fail() -> None:
    """Half of float32's digits in the Gram matrix are too few for the spectra of gradients, and enough for a Gaussian.

    So the products above are rounded indeed.
    """
    for name, matrix in spectra((128, 128)):
        if name not in ("gaussian", "1/k^2", "rank 1"):
            continue  # not as bad
        x, product = matrix.float() / matrix.norm().float(), torch.eye(128)
        with RoundedProducts():
            gram = x @ x.mT
            for _ in range(5):
                q = 3.4445 * torch.eye(128) - 4.7750 * gram + 2.0315 * gram @ gram
                gram, product = gram @ (q @ q), q @ product
            update = (product @ x).double()
        largest = torch.linalg.matrix_norm(update, ord=2)
        expected = _plain_newton_schulz(matrix)
        cosine = torch.cosine_similarity(update.flatten(), expected.flatten(), dim=0)
        assert (largest > 1.3 or cosine < 0.99) == (name != "gaussian"), name


def test_autocast_does_not_reach_into_the_iteration() -> None:
    matrix = next(gradients())[1].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = orthogonalize(matrix)
    assert torch.equal(inside, orthogonalize(matrix))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gradient_of_zeros_moves_nothing_and_one_that_is_no_number_does_not_hide(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.ones(4, 6, dtype=dtype))
    weight.grad = torch.zeros(4, 6, dtype=dtype)
    optimizer = Muon([weight], lr=1.0, weight_decay=0.0)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(4, 6, dtype=dtype))
    weight.grad[0, 0] = torch.nan
    optimizer.step()
    assert torch.isnan(weight).any()


def test_matrices_of_one_shape_go_together_and_come_back_as_they_were() -> None:
    """Wide and tall ones of one shape are stacked; each gets its own update, and the rest of its group's settings."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 24), (24, 8), (8, 24), (5, 5)]
    weights = [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in shapes]
    grads = [torch.randn(*shape, generator=generator) for shape in shapes]
    before = [weight.detach().clone() for weight in weights]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad.clone()
    Muon(weights, lr=0.1, weight_decay=0.5).step()
    for weight, start, grad in zip(weights, before, grads, strict=True):
        rows, columns = weight.shape
        wide = grad.mT if rows > columns else grad
        update = _plain_newton_schulz(wide.double()).float()
        update = (update.mT if rows > columns else update) * max(1.0, rows / columns) ** 0.5
        torch.testing.assert_close(weight.detach(), 0.95 * start - 0.1 * update, rtol=1e-4, atol=1e-4)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process that shares its weights with itself."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
def test_weights_that_are_shared_get_the_same_update_and_stay_where_they_are(
    mesh: DeviceMesh, placement: Placement
) -> None:
    generator = torch.Generator().manual_seed(0)
    start, grad = (torch.randn(6, 9, generator=generator) for _ in range(2))
    plain = torch.nn.Parameter(start.clone())
    shared = torch.nn.Parameter(distribute_tensor(start.clone(), mesh, [placement]))
    plain.grad, shared.grad = grad.clone(), distribute_tensor(grad.clone(), mesh, [placement])
    for weight in (plain, shared):
        Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert isinstance(shared.data, DTensor)
    assert shared.data.placements == (placement,)
    torch.testing.assert_close(shared.data.full_tensor(), plain.data)
    assert (plain.data - start).abs().max() > 0.05


def test_processes_that_share_the_work_get_what_one_gets(mesh: DeviceMesh) -> None:
    """Of one process here; of two in ``test_distributed``, whose losses are those of one."""
    weights = []
    for shared in (False, True):
        model = make_gpt2(40)
        next_token_loss(model, torch.randint(3, 40, (2, 20), generator=torch.Generator().manual_seed(0))).backward()
        matrices = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
        Muon(matrices, lr=0.1, shared=shared).step()
        weights.append(torch.cat([p.detach().flatten() for p in matrices]))
    assert torch.equal(*weights)


def test_momentum_is_nesterovs_of_an_average_of_the_gradients() -> None:
    """Two steps by hand: m = 0.95 m + 0.05 g, and what is made orthogonal is 0.95 m + 0.05 g again."""
    first, second = (torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    weight = torch.nn.Parameter(torch.zeros(4, 9, dtype=torch.float64))
    optimizer = Muon([weight], lr=1.0, weight_decay=0.0)
    weight.grad = first.clone()
    optimizer.step()
    after_one = weight.detach().clone()
    weight.grad = second.clone()
    optimizer.step()
    average = 0.95 * (0.05 * first) + 0.05 * second
    torch.testing.assert_close(-after_one, _plain_newton_schulz(first), rtol=1e-8, atol=1e-8)
    expected = _plain_newton_schulz(0.95 * average + 0.05 * second)
    torch.testing.assert_close(after_one - weight.detach(), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_that_was_saved_goes_on_as_one_that_was_not(dtype: torch.dtype) -> None:
    """The average of the gradients is kept in float32, which loading must not round to the weights' dtype."""
    grads = torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(0)).to(dtype)

    def run(saved_after: int | None) -> Tensor:
        weight = torch.nn.Parameter(torch.ones(6, 9, dtype=dtype))
        optimizer = Muon([weight], lr=0.1)
        for number, grad in enumerate(grads):
            if number == saved_after:
                state = optimizer.state_dict()
                optimizer = Muon([weight], lr=0.1)
                optimizer.load_state_dict(state)
                assert optimizer.state[weight]["momentum_buffer"].dtype == torch.float32
            weight.grad = grad.clone()
            optimizer.step()
        return weight.detach()

    assert torch.equal(run(saved_after=2), run(saved_after=None))


@pytest.mark.cuda
def test_a_gpu_makes_the_same_updates() -> None:
    for dtype in DTYPES:
        for name, matrix in spectra((192, 768)):
            there = orthogonalize(matrix.to("cuda", dtype)).cpu()
            torch.testing.assert_close(there, orthogonalize(matrix.to(dtype)), rtol=1e-3, atol=1e-3, msg=name)


def test_tall_matrices_are_the_wide_ones_turned_with_the_same_settings() -> None:
    wide = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    for settings in ({"steps": 1}, {"steps": 4}, {"eps": 100.0}):
        expected = orthogonalize(wide, **settings)  # type: ignore[arg-type]
        assert torch.equal(orthogonalize(wide.mT, **settings), expected.mT)  # type: ignore[arg-type]
        assert not torch.allclose(expected, orthogonalize(wide), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_what_comes_out_is_at_least_float32(dtype: torch.dtype) -> None:
    found = orthogonalize(torch.randn(4, 6).to(dtype))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_its_defaults_are_those_of_training() -> None:
    (group,) = Muon([torch.nn.Parameter(torch.zeros(2, 2))]).param_groups
    config = TrainConfig()
    assert (group["lr"], group["weight_decay"]) == (config.muon_lr, config.weight_decay)
