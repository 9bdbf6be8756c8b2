"""Large libraries are imported without a look for garbage between their modules, a fourth of the time that it takes."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """While open, nothing is looked through for garbage: what imports make stays, and is a million objects of torch."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
