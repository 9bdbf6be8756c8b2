"""Muon: momentum whose every update of a matrix is made orthogonal (Jordan et al., 2024).

The same optimizer as ``torch.optim.Muon``, for networks of many small matrices: torch takes them one by one, in
bfloat16, and needs more time for that at the nano scale than the backward pass takes. Here matrices of one shape go
together, in float32 on CPUs; and the iteration runs on their Gram matrices, which are as small as their shorter side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; chosen for a steep slope at zero, so singular values end near 1, not at it."""

STEPS = 5


def orthogonalize(matrices: Tensor, *, steps: int = STEPS, eps: float = 1e-7) -> Tensor:
    """Bring the singular values of matrices (..., R, C) near 1: Newton-Schulz, without an SVD.

    A step replaces X by q(X X') X, where q(A) = a + b A + c A^2. All q commute, being polynomials of one matrix, so
    their product is gathered, and X is multiplied with it once.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalize(matrices.mT, steps=steps, eps=eps).mT
    a, b, c = COEFFICIENTS
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    gram, product = x @ x.mT, None
    for step in range(steps):
        q = gram @ gram
        q.mul_(c).add_(gram, alpha=b).diagonal(dim1=-2, dim2=-1).add_(a)
        product = q if product is None else q @ product
        if step + 1 < steps:
            gram = gram @ (q @ q)
    return x if product is None else product @ x


class Muon(Optimizer):
    """Muon for weight matrices of hidden layers; others belong to another optimizer.

    Args:
        params: 2-D parameters.
        lr: learning rate; an update of an R x C matrix is scaled by sqrt(max(1, R / C)), as torch's default does.
        weight_decay: decoupled.
        momentum: of the gradients; Nesterov's.

    Raises:
        ValueError: a parameter is no matrix.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 0.02, weight_decay: float = 0.01, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"params: one of shape {tuple(parameter.shape)}, expected matrices")

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
        wide = []
        for parameter in parameters:
            assert parameter.grad is not None
            buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter.grad))
            buffer.lerp_(parameter.grad, 1 - group["momentum"])
            update = parameter.grad.lerp(buffer, group["momentum"])
            update = update.full_tensor() if isinstance(update, DTensor) else update
            wide.append(update.mT if update.shape[0] > update.shape[1] else update)
        stacked = torch.stack(wide)
        orthogonal = orthogonalize(stacked.bfloat16() if stacked.is_cuda else stacked.float())
        for parameter, update in zip(parameters, orthogonal, strict=True):
            rows, columns = parameter.shape
            update = (update.mT if rows > columns else update).to(parameter.dtype)
            if isinstance(parameter, DTensor):
                update = distribute_tensor(update.contiguous(), parameter.device_mesh, parameter.placements)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))
