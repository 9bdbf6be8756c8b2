"""A block's matrices: the modules that multiply what they read by a weight, with or without an adapter of peft."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D


def find_adapted(block: nn.Module) -> list[str]:
    """Paths of the modules into which peft has put an adapter; each holds the matrix and the adapter's own matrices."""
    return [path for path, module in block.named_modules() if hasattr(module, "base_layer")]


def is_inside(path: str, parents: list[str]) -> bool:
    """Whether a path leads into one of some modules, which a module's own path does not."""
    return any(path.startswith(f"{parent}.") for parent in parents)


def find_matrices(block: nn.Module) -> list[str]:
    """Paths of a block's matrices; one with an adapter is the module that holds both, not a part of it."""
    adapted = find_adapted(block)
    return [
        path
        for path, module in block.named_modules()
        if path in adapted or (isinstance(module, nn.Linear | Conv1D) and not is_inside(path, adapted))
    ]


def num_inputs(matrix: nn.Module) -> int:
    """How many numbers a matrix reads at a position; one with an adapter reads what the matrix in it does."""
    inside = getattr(matrix, "base_layer", matrix)
    assert isinstance(inside, nn.Linear | Conv1D)
    return int(inside.weight.shape[0 if isinstance(inside, Conv1D) else 1])
