"""Starting without a look for garbage: a fourth of the time that it takes to import large libraries and load models."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def leave_garbage() -> Iterator[None]:
    """While open, nothing is looked through for garbage: what is made stays, and of torch it is a million objects."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
