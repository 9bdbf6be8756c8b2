"""Gradients of weights that are used one after the other, as a backward pass finds them, and never all kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


@contextlib.contextmanager
def gradients_of(weights: Sequence[Tensor], use: Callable[[Tensor], None]) -> Iterator[None]:
    """While it is open, a backward pass hands every weight to ``use`` as soon as its gradient is there.

    Frozen weights are trainable meanwhile. Gradients that were there before are not added to, and come back.

    Args:
        weights: parameters of a model, each once.
        use: is given a weight with its gradient, and takes that away when it is done with it.

    Raises:
        ValueError: a weight has a type of number that has no gradients.
    """
    if kinds := {str(weight.dtype) for weight in weights if not weight.is_floating_point()}:
        raise ValueError(f"model: weights of {', '.join(sorted(kinds))} have no gradients, expected floating point")
    before = [(weight, weight.requires_grad, weight.grad) for weight in weights]
    hooks = []
    try:
        for weight in weights:
            weight.grad = None
            weight.requires_grad_(True)
            hooks.append(weight.register_post_accumulate_grad_hook(use))
        with torch.enable_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, required, gradient in before:
            weight.requires_grad_(required)
            weight.grad = gradient
