"""Muon: momentum whose every update of a matrix is made orthogonal (Jordan et al., 2024).

The same optimizer as ``torch.optim.Muon``, for networks of many small matrices: torch takes them one by one and needs
more time for that at the nano scale than the backward pass takes. Here matrices of one shape go together, and the
iteration runs on their Gram matrices, which are as small as their shorter side.

All of it is computed in float32, on every device and for weights of every dtype, and the Gram matrix is formed anew
after three of the five steps. Squaring squares the condition: what is rounded away in a Gram matrix comes back as
eigenvalues below zero, which the iteration blows up. Measured against the iteration on the matrix itself in float64
(spectra 1/k, 1/k^2, down to 1e-6, rank 1, 3 and 5, Gaussian; 128 x 128 to 512 x 2048; the gradients of nano), the
largest singular value of an update, which should be at most 1.20, and its smallest cosine with that reference:

| way                                   | largest | cosine |
| ------------------------------------- | ------- | ------ |
| Gram in bfloat16                      |  62,140 |   0.03 |
| Gram in bfloat16, formed anew         |    1.21 |   0.87 |
| Gram in float32                       |    1.20 |   1.00 |
| Gram in float32 with products in TF32 |    5.02 |   0.70 |
| the matrix itself in bfloat16         |    1.21 |   0.47 |
| the matrix itself in float32          |    1.20 |   1.00 |
| this: Gram in float32, formed anew    |    1.20 |   1.00 |
| this with products in TF32            |    1.20 |   1.00 |

The matrix itself takes half as long again on the shapes of nano (24 ms a step where this takes 19, and the whole step
170). TF32 is off unless someone turns it on for the whole process, and must then not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; chosen for a steep slope at zero, so singular values end near 1, not at it."""

STEPS = 5

RESTART = 3
"""Steps on one Gram matrix, at most; see above."""


def _working_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def orthogonalize(matrices: Tensor, *, steps: int = STEPS, eps: float = 1e-7) -> Tensor:
    """Bring the singular values of matrices (..., R, C) near 1: Newton-Schulz, without an SVD.

    A step replaces X by q(X X') X, where q(A) = a + b A + c A^2. All q commute, being polynomials of one matrix, so
    the product of :data:`RESTART` of them is gathered, and X is multiplied with it once.

    Args:
        matrices: of any dtype; those of less than 32 bits are computed with in float32.
        steps: of the iteration.
        eps: matrices of a smaller Frobenius norm are not scaled up to norm 1 before.

    Returns:
        matrices of that shape, in float32, or float64 if given in it.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalize(matrices.mT, steps=steps, eps=eps).mT
    with torch.autocast(matrices.device.type, enabled=False):
        x = matrices.to(_working_dtype(matrices))
        x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
        for done in range(0, steps, RESTART):
            x = _iterate(x, min(RESTART, steps - done))
    return x


def _iterate(x: Tensor, steps: int) -> Tensor:
    """Steps of the iteration on wide matrices, by way of their Gram matrices."""
    a, b, c = COEFFICIENTS
    gram, product = x @ x.mT, None
    for step in range(steps):
        q = gram @ gram
        q.mul_(c).add_(gram, alpha=b).diagonal(dim1=-2, dim2=-1).add_(a)
        if step + 1 < steps:
            gram = gram @ (q @ q)
        product = q if product is None else q @ product
    assert product is not None
    # X's own share apart: a product in TF32 would round X, and the small singular values come out of that noise.
    product.diagonal(dim1=-2, dim2=-1).sub_(a**steps)
    return (product @ x).add_(x, alpha=a**steps)


class Muon(Optimizer):
    """Muon for weight matrices of hidden layers; others belong to another optimizer.

    Args:
        params: 2-D parameters.
        lr: learning rate; an update of an R x C matrix is scaled by sqrt(max(1, R / C)), as torch's default does. That
            is meant for (out, in); GPT-2's Conv1D keeps (in, out), so that there what narrows is scaled up and what
            widens is not, as by ``torch.optim.Muon`` with the same tensors.
        weight_decay: decoupled.
        momentum: of the gradients; Nesterov's.
        shared: whether all processes have the same gradients, so that each makes its share of the updates orthogonal.

    Raises:
        ValueError: a parameter is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.02,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        shared: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.shared = shared
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"params: one of shape {tuple(parameter.shape)}, expected matrices")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; its averages of the gradients keep their dtype, which torch would round."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            if number in state_dict["state"]:
                saved = state_dict["state"][number]["momentum_buffer"]
                buffer = saved.to(parameter.device, _working_dtype(parameter), copy=True)
                self.state[parameter]["momentum_buffer"] = buffer

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on every matrix that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
            for parameters in by_shape.values():
                self._step_together(parameters, group)
        return loss

    def _step_together(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Matrices of one shape, some of them perhaps transposed."""
        updates = [
            each.full_tensor() if isinstance(each, DTensor) else each for each in self._averaged(parameters, group)
        ]
        wide = torch.stack([update.mT if update.shape[0] > update.shape[1] else update for update in updates])
        made = self._orthogonalize_shared(wide) if self.shared else orthogonalize(wide)
        for tall in (False, True):
            chosen = [
                (p, update) for p, update in zip(parameters, made, strict=True) if (p.shape[0] > p.shape[1]) == tall
            ]
            if chosen:
                moved = [p for p, _ in chosen]
                rows, columns = moved[0].shape
                self._move(moved, [_placed(update.mT if tall else update, p) for p, update in chosen],
                           group, math.sqrt(max(1.0, rows / columns)))  # fmt: skip

    def _averaged(self, parameters: list[Tensor], group: dict[str, Any]) -> Sequence[Tensor]:
        """The gradients, moved on along their averages, which are brought up to date."""
        gradients = [p.grad.to(_working_dtype(p)) for p in parameters if p.grad is not None]
        buffers = [
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(gradient))
            for p, gradient in zip(parameters, gradients, strict=True)
        ]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        return torch._foreach_lerp(gradients, buffers, group["momentum"])

    def _move(self, parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any], scale: float) -> None:
        lr = group["lr"]
        kept = 1 - lr * group["weight_decay"]
        if parameters[0].is_cuda:
            torch._foreach_mul_(parameters, kept)
        else:  # of bfloat16 on a CPU, together they would be multiplied with a rounded number
            for parameter in parameters:
                parameter.mul_(kept)
        if isinstance(lr, Tensor):  # on the device, where it is not waited for
            torch._foreach_add_(parameters, torch._foreach_mul(updates, -lr * scale))
        else:
            torch._foreach_add_(parameters, updates, alpha=-lr * scale)

    def _orthogonalize_shared(self, matrices: Tensor) -> Tensor:
        """The same on all processes, each of which makes some of matrices (M, R, C) orthogonal."""
        ranks, rank = distributed.get_world_size(), distributed.get_rank()
        share = -(-len(matrices) // ranks)
        mine = matrices[rank * share : (rank + 1) * share]
        made = matrices.new_zeros(share, *matrices.shape[1:])
        if len(mine):
            made[: len(mine)] = orthogonalize(mine)
        everything = [torch.empty_like(made) for _ in range(ranks)]
        distributed.all_gather(everything, made)
        return torch.cat(everything)[: len(matrices)]


def _placed(update: Tensor, parameter: Tensor) -> Tensor:
    """An update in the dtype of its weights, and where they are."""
    update = update.to(parameter.dtype)
    if not isinstance(parameter, DTensor):
        return update
    return distribute_tensor(update.contiguous(), parameter.device_mesh, parameter.placements)
