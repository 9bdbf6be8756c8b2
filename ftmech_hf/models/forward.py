"""What forward passes take, looked at once: a signature is read in the time of a small model's pass over a token."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


@functools.cache
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function of a class, which is kept; what belongs to one object would be kept with it."""
    return inspect.signature(function)


def forward_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Name -> parameter of what a model's forward pass takes, and perhaps ``self``."""
    if own := vars(model).get("forward"):  # as of those who move weights about
        return inspect.signature(own).parameters
    return signature_of(type(model).forward).parameters
