"""Weights that are a function of a seed, wherever they are drawn and whatever was drawn before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn on the CPU while it is open comes from this seed, and what is drawn afterwards is as if it was not.

    No GPU is asked for its state or given a seed, which would begin to use every GPU of the machine.
    """
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        yield
