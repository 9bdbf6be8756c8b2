"""Weights that are a function of a seed, wherever they are drawn and whatever was drawn before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """What is drawn on the CPU while it is open comes from this seed, and what is drawn afterwards is as if it was not.

    No GPU is asked for its state or given a seed, which would begin to use every GPU of the machine; but for the one
    that is named, if what is drawn is drawn there.
    """
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield
