"""Results that are computed from files once and found again, on disk and in memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

from ftmech_hf.runs import FolderLock, file_sha256, remove_leftovers, replacing

A_DAY = 24 * 3600.0
"""After so long, in seconds, what a writer left is taken for that of one that was killed."""


def cache_folder() -> Path:
    """The folder of these files, beside the datasets that the Hub's library keeps."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "ftmech_hf"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def make_once(kept: Path, write: Callable[[Path], None]) -> Path:
    """Make a file, unless it is there; of several processes that want it one makes it, and the others wait for that.

    Args:
        kept: the file, in a folder that processes share.
        write: writes it to the place it is given.

    Returns:
        ``kept``.
    """
    if kept.is_file():
        return kept
    lock = FolderLock(kept)
    lock.acquire(timeout=-1)  # without it, as when somebody emptied the folder, it may be made twice, and harms nobody
    try:
        if not kept.is_file():
            remove_leftovers(kept.parent, older_than=A_DAY)
            with replacing(kept) as working:
                write(working)
    finally:
        lock.release()
    return kept


def source_hash(*names: str) -> str:
    """A hash of some of this folder's own source files, so that what other code made is made again."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()[:12]


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def hash_file(path: Path) -> str:
    """The sha256 of a file, read once as long as it does not change."""
    found = path.stat()
    return _hash(path, found.st_size, found.st_mtime_ns)
