"""Deaths of a process, without a process: from one file operation on, nothing that it does has any effect."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ftmech_hf.runs import FolderLock

_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
"""The events of :func:`sys.audit` that change files, beside opening one to write to it."""


class Death(BaseException):
    """Where a process ends. Whatever code would clean up after it cannot: that too would change files."""


class Mortal:
    """Counts the changes of files below a folder, and before one of them dies, or lets something else happen.

    Attributes:
        done: the changes so far, by their event and path.
    """

    def __init__(self, folder: Path, at: int | None, happens: Callable[[], None]) -> None:
        self.folder, self.at, self.happens = str(folder), at, happens
        self.done: list[tuple[str, str]] = []
        self.locks: list[FolderLock] = []

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (opened or event in _CHANGES) or not isinstance(args[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(args[0])
        # rmtree names a file by its folder's descriptor and its last part
        if path.startswith(self.folder) or (event != "open" and not os.path.isabs(path)):
            self.done.append((event, path))
            if len(self.done) == self.at:
                self.happens()
            elif self.at is not None and len(self.done) > self.at and self.happens is _die:
                _die()


def _die() -> None:
    raise Death


_mortals: list[Mortal | None] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _mortals and (one := _mortals[-1]) is not None:
        one.see(event, args)


sys.addaudithook(_hook)  # for good: there is no way to take one away

_acquire = FolderLock.acquire


def _acquire_and_remember(self: FolderLock, timeout: float = 0.0) -> bool:
    if _mortals and (one := _mortals[-1]) is not None:
        one.locks.append(self)
    return _acquire(self, timeout)


FolderLock.acquire = _acquire_and_remember  # type: ignore[method-assign]


@contextlib.contextmanager
def mortal(folder: Path, dies_at: int | None = None) -> Iterator[Mortal]:
    """Run code as a process that dies just before its n-th change of a file below ``folder``, if it comes to that."""
    one = Mortal(folder, dies_at, _die)
    _mortals.append(one)
    try:
        yield one
    except Death:
        for lock in one.locks:  # the system takes a dead process' locks away, and leaves their files
            lock._lock.release(force=True)
    finally:
        _mortals.pop()


@contextlib.contextmanager
def watched(folder: Path, at: int | None, happens: Callable[[], None]) -> Iterator[Mortal]:
    """Run code as a process; just before its n-th change of a file below ``folder`` another one does something."""

    def unwatched() -> None:
        _mortals.append(None)
        try:
            happens()
        finally:
            _mortals.pop()

    one = Mortal(folder, at, unwatched)
    _mortals.append(one)
    try:
        yield one
    finally:
        _mortals.pop()


def die(lock: FolderLock) -> None:
    """What a process that has a lock leaves when it is killed between two commands."""
    lock._lock.release(force=True)
