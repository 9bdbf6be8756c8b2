"""Starting without a look for garbage: a fourth of the time that it takes to import large libraries and load models."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def leave_garbage(*, for_good: bool = False) -> Iterator[None]:
    """While open, nothing is looked through for garbage: what is made stays, and of torch it is a million objects.

    Args:
        for_good: never look through what is there at the end, either, which takes half a second the next time. It is
            for a command that owns its process: what was garbage before stays, too.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if collects:
            gc.enable()
