"""Files and folders that are there whole or not at all, whoever is killed when, and however many write at once.

A file is written beside its place under a name that no other writer has, and renamed. A folder ``NAME`` is made in
``NAME.partial`` by one process alone, which holds the lock ``.NAME.lock`` beside it; a manifest says when it is whole.
From then on it is only moved to its place, by the process that made it or, if that was killed, by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
from safetensors import SafetensorError

MANIFEST = "manifest.json"

CHECKPOINTS = "checkpoints"
"""The folder in a run that is being made which is no part of it; it is there until the run is whole."""

_OURS = (".lock", ".tmp", ".replaced", ".discarded")
"""Endings of the hidden names that are ours while something is being written."""


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is a lock, or something half written: no part of any result."""
    return name.startswith(".") and name.endswith(_OURS)


def _hidden(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{ending}")


def unique_name(path: Path, suffix: str = "") -> Path:
    """A hidden name beside ``path`` that no other writer has, ending in ``suffix`` and ``.tmp``."""
    return _hidden(path, f"{os.getpid()}-{secrets.token_hex(4)}{suffix}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file's new content a place to be written to; it gets its name when it is whole and on the disk."""
    working = unique_name(path)
    try:
        yield working
        _sync(working)
        working.replace(path)
    finally:
        working.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's text so that readers see the old or the new, and a crash leaves one of them."""
    with replacing(path) as working:
        working.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of JSON a person can read."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path, *, older_than: float = 0.0) -> None:
    """Delete what killed writers left below a folder that nobody else writes to, or nobody for so many seconds."""
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def check_disk_space(folder: Path, needed_bytes: int) -> None:
    """Make sure that ``folder``, which need not exist yet, can take that much; better now than at the last step.

    Raises:
        ValueError: it cannot.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ValueError(
            f"output_dir: {folder} needs about {needed_bytes / 1e6:.0f} MB for checkpoints and the model, "
            f"but only {free / 1e6:.0f} MB are free"
        )


_WRITE_FAILED = re.compile(r"os error \d+|I/O ?error|StreamWriter|unexpected pos|file write failed", re.IGNORECASE)
"""How safetensors and torch say that the disk did not take what they wrote; their exceptions have no errno."""


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Wrap the saving of weights: a failed write is an OSError, whoever noticed it; what else fails is what it is.

    Raises:
        OSError: the files could not be written.
        ValueError: the weights cannot be saved, for a reason of their own, such as too little memory to gather them.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError) or _WRITE_FAILED.search(str(error)):
            raise OSError(f"cannot write into {folder}: {error}") from error
        raise ValueError(f"model: its weights cannot be saved: {error}") from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, *, leave_out: str = "") -> None:
    """Write size and sha256 of every file, once all are on the disk: with this the folder is whole.

    Args:
        folder: what has been made.
        leave_out: name of a folder in it that is no part of it.
    """
    sums = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] != leave_out and path.name != MANIFEST and not is_temporary(path.name):
            _sync(path)
            sums[name.as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(folder / MANIFEST, sums)


def commit_folder(working: Path, final: Path) -> None:
    """Write the manifest of ``working`` and rename it to ``final``, which must not exist."""
    write_manifest(working)
    working.rename(final)


def damaged_files(folder: Path) -> list[str]:
    """Files of a committed folder that are missing or differ from its manifest; the manifest itself if unreadable."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [MANIFEST]
    if not isinstance(sums, dict) or not all(isinstance(each, dict) and "sha256" in each for each in sums.values()):
        return [MANIFEST]
    return [
        name
        for name, expected in sums.items()
        if not (folder / name).is_file()
        or (folder / name).stat().st_size != expected["bytes"]
        or file_sha256(folder / name) != expected["sha256"]
    ]


def is_finished(folder: Path) -> bool:
    """Whether ``folder`` is a committed one; a replacement that was killed halfway is brought to its end first."""
    if (
        not (folder / MANIFEST).is_file()
        and folder.name
        and not folder.exists()
        and _hidden(folder, "replaced").exists()
    ):
        with contextlib.suppress(OSError):  # of others, perhaps, and not ours to write to
            lock = FolderLock(folder)
            if lock.acquire(timeout=1):  # a living process is here for no longer than two renames take
                try:
                    recover(folder)
                finally:
                    lock.release()
    return (folder / MANIFEST).is_file()


class FolderLock:
    """The right to make, replace or remove a folder, be it there or not; at the latest it ends with the process.

    Its file lies beside the folder, so that it stays where it is when the folder is renamed or removed. It is deleted
    by who holds it, and whoever had opened it by then does not get it any more (filelock looks at the links).
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, _hidden(folder, "lock")
        self._lock = filelock.FileLock(self.path, thread_local=False)
        self._file: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[type[FolderLock], tuple[Path]]:
        # What a worker hands back holds one, and a right is not handed on: in another process it is not held.
        return FolderLock, (self.folder,)

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take it, if no other holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=timeout)
        except filelock.Timeout:
            return False
        self._file = self._on_disk()
        if not self.held:  # deleted by hand just now
            self.release()
            return False
        return True

    def _on_disk(self) -> tuple[int, int] | None:
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
            return found.st_dev, found.st_ino
        return None

    @property
    def held(self) -> bool:
        """Whether it is still ours: its file may have been deleted by hand, and another process may have a new one."""
        return self._file is not None and self._lock.is_locked and self._on_disk() == self._file

    def release(self) -> None:
        """Let others have it."""
        if self.held:
            with contextlib.suppress(OSError):
                self.path.unlink()  # while it is held: deleting it later would take it from the next holder
        self._lock.release()
        self._file = None


@contextlib.contextmanager
def making(path: Path, setting: str) -> Iterator[Path]:
    """Make a new folder in one process alone; it is written to in what this gives, which is to be renamed at the end.

    Raises:
        ValueError: another process is making it; names ``setting``.
    """
    lock, working = FolderLock(path), working_folder(path)
    if not lock.acquire():
        raise ValueError(f"{setting}: another process is writing {path}; wait for it, or choose another folder")
    try:
        shutil.rmtree(working, ignore_errors=True)  # of a killed one
        working.mkdir()
        yield working
    finally:
        shutil.rmtree(working, ignore_errors=True)
        lock.release()


def working_folder(path: Path) -> Path:
    """Where the folder ``path`` is made."""
    return path.with_name(path.name + ".partial")


def _empty_place(path: Path) -> Path:
    """Where something of the folder ``path``, whose lock is held, can be that must not be taken for it."""
    place = _hidden(path, "discarded")
    shutil.rmtree(place, ignore_errors=True)
    return place


def begin(path: Path, write: Callable[[Path], None]) -> None:
    """Make the working folder of ``path``, whose lock is held, with its first files, which are there with it."""
    place = _empty_place(path)
    place.mkdir()
    write(place)
    place.rename(working_folder(path))


def discard(folder: Path, path: Path) -> None:
    """Remove a folder of ``path``, whose lock is held: at once from where it is, then file by file."""
    place = _empty_place(path)
    folder.rename(place)
    shutil.rmtree(place, ignore_errors=True)  # what cannot be removed now is, next time


def appear(path: Path) -> None:
    """Move what was made, and is whole, to its place; a committed folder there gives way. The lock of ``path`` is held.

    Raises:
        ValueError: something else is there.
    """
    working, replaced = working_folder(path), _hidden(path, "replaced")
    if (working / CHECKPOINTS).exists():
        shutil.rmtree(working / CHECKPOINTS)  # not before now: the manifest is there, so nothing needs them any more
    if path.exists():
        if not (path / MANIFEST).is_file():
            raise ValueError(f"output_dir: {path} exists and is no run of ours; move it away and run the command again")
        if replaced.exists():
            discard(replaced, path)
        path.rename(replaced)
    working.rename(path)
    if replaced.exists():
        with contextlib.suppress(OSError):
            discard(replaced, path)


def recover(path: Path) -> None:
    """Bring to its end what a killed process left of making or replacing ``path``, whose lock is held."""
    _empty_place(path)
    working, replaced = working_folder(path), _hidden(path, "replaced")
    if (working / MANIFEST).is_file():
        if damaged_files(working):  # by more than a kill: what was said to be on the disk is not
            (working / MANIFEST).unlink()
        elif not path.exists() or (path / MANIFEST).is_file():
            appear(path)
    if replaced.exists():
        if path.exists():
            discard(replaced, path)
        else:
            replaced.rename(path)


def tidy(path: Path) -> None:
    """Remove what a killed process left beside a committed folder, if that is ours to remove and nobody is at work."""
    if not any(_hidden(path, ending).exists() for ending in ("lock", "replaced", "discarded")):
        return
    lock = FolderLock(path)
    with contextlib.suppress(OSError):
        if lock.acquire():
            try:
                if (path / MANIFEST).is_file():
                    if _hidden(path, "replaced").exists():
                        discard(_hidden(path, "replaced"), path)
                    _empty_place(path)
            finally:
                lock.release()
