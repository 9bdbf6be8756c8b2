"""What was computed from files once and is found again, on disk and in memory."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import datasets

from ftmech_hf.runs import file_sha256


def cache_folder() -> Path:
    """Where it lies: beside the datasets that the Hub's library keeps."""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "ftmech_hf"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def source_hash(*names: str) -> str:
    """Of some of this folder's own files: what other code made is made again."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()[:12]


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def hash_file(path: Path) -> str:
    """The sha256 of a file, read once as long as it does not change."""
    found = path.stat()
    return _hash(path, found.st_size, found.st_mtime_ns)
