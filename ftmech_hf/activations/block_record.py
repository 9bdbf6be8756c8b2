"""What one block computed in a forward pass that carries several copies of a row.

The copies are those of :mod:`ftmech_hf.activations.proofs`: one is left alone, in one the stream entering the block was
moved, and in every other what one part computes, at all positions but the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class BlockRecord:
    """What one block computed: values are (R, T, width) with R copies of a row, in float32 on the CPU.

    Attributes:
        entered, left: the stream.
        read, wrote: path of a module -> the first tensor that it is given, and what it returns or the first of it. Only
            modules that the block calls once are there, with values that have a row for each row of the stream.
        order: (``in`` or ``out``, path), as the block computes.
        moved: paths of the modules whose output was moved, in copies 2, 3 and so on.
        held: paths of the modules whose output was held as it is while the stream was moved, in the copies after those.
        experts: path of a module that holds routed experts -> why it does not compute as such; empty if it does.
    """

    def __init__(self, copies: int, tokens: int, moved: Sequence[str], held: Sequence[str]) -> None:
        self.copies, self.tokens, self.moved, self.held = copies, tokens, list(moved), list(held)
        self.entered = self.left = torch.empty(0)
        self.read: dict[str, Tensor] = {}
        self.wrote: dict[str, Tensor] = {}
        self.order: list[tuple[str, str]] = []
        self.experts: dict[str, str] = {}
        self._seen: set[tuple[str, str]] = set()

    def keep(self, where: str, path: str, value: Tensor | None) -> None:
        """Keep what a module reads (``in``) or writes (``out``)."""
        values = self.read if where == "in" else self.wrote
        rows = None if value is None else self.rows(value)
        if rows is None or (where, path) in self._seen:
            values.pop(path, None)  # a module that is called twice has no one value
        else:
            values[path] = rows.detach().to("cpu", torch.float32, copy=True)  # blocks may add in place
        self._seen.add((where, path))
        self.order.append((where, path))

    def rows(self, value: Tensor) -> Tensor | None:
        """A value by rows: some blocks put all rows behind each other."""
        if value.ndim == 3 and value.shape[:2] == (self.copies, self.tokens):
            return value
        if value.ndim == 2 and len(value) == self.copies * self.tokens:
            return value.unflatten(0, (self.copies, self.tokens))
        return None

    def changed_in(self, copy: int) -> str | None:
        """Path of the module whose output was moved or held in a copy; None if it was none's."""
        return dict(enumerate([*self.moved, *self.held], 2)).get(copy)

    def streams(self) -> list[str]:
        """Paths of the modules that write something of the stream's shape."""
        return [path for path, value in self.wrote.items() if value.shape == self.entered.shape]

    def copy_of(self, path: str) -> int:
        """The copy in which what a module writes was moved."""
        return 2 + self.moved.index(path)


def is_near(value: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two values are the same but for rounding, relative to the size of the second."""
    return bool((value - other).norm() <= tolerance * other.norm())


def norms(value: Tensor) -> Tensor:
    """The norm of a value in each of its copies, (R,)."""
    return value.flatten(1).norm(dim=1)


def fit_factors(wanted: Tensor, parts: Sequence[Tensor]) -> list[float]:
    """Factors with which values add up to another one of their shape, by least squares."""
    matrix = torch.stack([part.flatten() for part in parts]).double()
    squares, products = matrix @ matrix.T, matrix @ wanted.flatten().double()
    if len(parts) == 1:  # what is nearly always asked, and a solver takes longer for than all the rest
        return [float(products / squares) if float(squares) else 0.0]
    solution: list[float] = torch.linalg.lstsq(squares, products[:, None]).solution.flatten().tolist()
    return solution
