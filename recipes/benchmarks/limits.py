"""What the machine could do at best: products, copies, and what a training step must move at least."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ftmech_hf.training.launch import compute_device

WEIGHT_BYTES = 28
"""AdamW reads a weight, its gradient and two moments, and writes all but the gradient, in float32."""


def device_name() -> str:
    """What computes."""
    if compute_device().type == "cuda":
        return torch.cuda.get_device_name()
    return platform.processor() or platform.machine()


def precision_name(precision: str) -> str:
    """As tables call a precision of training settings."""
    return "fp32" if precision == "no" else precision


def wait() -> None:
    """Until all is computed."""
    if compute_device().type == "cuda":
        torch.cuda.synchronize()


def _best(work: Callable[[], object], times: int = 10) -> float:
    """The fewest seconds of several times."""
    seconds = []
    for _ in range(times):
        wait()
        started = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def matmul_peak(precision: str) -> float:
    """The best of ten square matrix products, in FLOP/s."""
    device = compute_device()
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * size**3 / _best(lambda: a @ a)


def bandwidth() -> float:
    """The best of ten copies of memory that no cache holds, in bytes read and written per second."""
    device = compute_device()
    numbers = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    other = torch.empty_like(numbers)
    return 2 * numbers.nbytes / _best(lambda: other.copy_(numbers))


def least_bytes(model: PreTrainedModel, token_ids: Tensor, precision: str) -> float:
    """What a step of PyTorch must move: all that it keeps for the backward pass there and back, weights and moments.

    Kernels that are fused may keep less, and none does without reading and writing more.
    """
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device, was = compute_device(), model.device
    torch.nn.Module.to(model, device)
    token_ids = token_ids.to(device)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        logits = model(token_ids[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), token_ids[:, 1:].flatten())
    del loss, logits
    torch.nn.Module.to(model, was)
    return 2.0 * sum(kept.values()) + WEIGHT_BYTES * model.num_parameters()
