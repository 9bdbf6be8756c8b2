"""What a user should know that stops nothing."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any


class Notice(UserWarning):
    """Something a user should know that stops nothing."""


def tell(message: str) -> None:
    """Say something that stops nothing: one line of a recipe, a :class:`Notice` among Python's warnings elsewhere."""
    warnings.warn(message, Notice, stacklevel=2)


@contextlib.contextmanager
def notices_in_one_line() -> Iterator[None]:
    """Show what :func:`tell` says without the line of code that said it."""
    shown = warnings.formatwarning

    def one_line(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        return f"note: {message}\n" if issubclass(category, Notice) else shown(message, category, *where, **more)

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = shown
