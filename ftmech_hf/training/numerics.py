"""How a run computes: what its numbers depend on beside its settings' science, set while it trains and written down."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator

from ftmech_hf.runs import RunDir, noted
from ftmech_hf.training.launch import noted_environment
from ftmech_hf.training.settings import TrainConfig


@contextlib.contextmanager
def computing_as(config: TrainConfig) -> Iterator[None]:
    """Round products, and choose kernels, as a run asks for it; afterwards as before."""
    products = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if config.tf32:
        torch.set_float32_matmul_precision("high")
    if config.deterministic:
        # cuBLAS reads it when it begins, and is not deterministic without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def note_numerics(run: RunDir, config: TrainConfig, accelerator: Accelerator, way: str) -> None:
    """Write down how numbers are rounded here.

    Raises:
        ValueError: the run began in another precision.
    """
    began_with, here = noted(run.working, "mixed_precision"), accelerator.mixed_precision
    if began_with not in (None, here):
        raise ValueError(
            f"mixed_precision: {config.mixed_precision} is {here} here, but this run began with {began_with}; "
            "go on where it is that, or start over with --fresh"
        )
    facts: Mapping[str, Any] = {
        "mixed_precision": here,
        "steps_computed": way,
        "float32_products": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "processes": accelerator.num_processes,
        "variables": noted_environment(),
    }
    run.note(**facts)
