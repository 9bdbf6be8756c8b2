"""Starting without a look for garbage: a fourth of the time that it takes to import large libraries and load models."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def leave_garbage() -> Iterator[None]:
    """While open, nothing is looked through for garbage, and what is there at its end never is.

    Of torch and transformers it is a million objects: the next look through them would take half a second.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
