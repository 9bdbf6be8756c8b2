"""Who may make, replace or remove a folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

import filelock

from ftmech_hf.runs.files import hidden_name


class FolderInUse(ValueError):
    """Another process makes, replaces or removes a folder now; it need not be so for long."""

    @classmethod
    def of(cls, folder: Path) -> FolderInUse:
        """Said of a folder."""
        return cls(f"output_dir: another process is writing {folder}; wait for it or stop it")


class FolderLock:
    """The right to make, replace or remove a folder, be it there or not; at the latest it ends with the process.

    Its file lies beside the folder, so that it stays where it is when the folder is renamed or removed. It is deleted
    by who holds it, and whoever had opened it by then does not get it any more (filelock looks at the links).
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, hidden_name(folder, "lock")
        self._lock = filelock.FileLock(self.path, thread_local=False)
        self._file: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[type[FolderLock], tuple[Path]]:
        # What a worker hands back holds one, and a right is not handed on: in another process it is not held.
        return FolderLock, (self.folder,)

    def acquire(self, timeout: float = 0.0) -> bool:
        """Take it, if no other holds it.

        Raises:
            OSError: nothing can be written there; says where and why.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=timeout)
        except filelock.Timeout:
            return False
        except OSError as error:  # a file where a folder should be, a name too long, a disk that is only read
            raise OSError(f"cannot write to {self.folder}: {error.strerror or error}") from error
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


def refuse_in_use(folder: Path) -> None:
    """Refuse a folder that another process holds, before anything is made for it; nothing is held afterwards.

    Raises:
        FolderInUse: another process holds it.
    """
    lock = FolderLock(folder)
    if not lock.path.exists():
        return
    if not lock.acquire():
        raise FolderInUse.of(folder)
    lock.release()
