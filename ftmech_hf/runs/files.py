"""Files that are there whole or not at all.

A file is written beside its place under a name that no other writer has, and renamed.
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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    import pandas as pd

_OURS = (".lock", ".tmp", ".replaced", ".discarded")
"""Endings of the hidden names that are ours while something is being written."""


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is a lock, or something half written: no part of any result."""
    return name.startswith(".") and name.endswith(_OURS)


def hidden_name(path: Path, ending: str) -> Path:
    """A name beside ``path`` that begins with a dot."""
    return path.with_name(f".{path.name}.{ending}")


def unique_name(path: Path, suffix: str = "") -> Path:
    """A hidden name beside ``path`` that no other writer has, ending in ``suffix`` and ``.tmp``."""
    return hidden_name(path, f"{os.getpid()}-{secrets.token_hex(4)}{suffix}.tmp")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file's new content a place to be written to; it gets its name when it is whole and on the disk."""
    working = unique_name(path)
    try:
        yield working
        sync(working)
        working.replace(path)
    finally:
        working.unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
    """Replace a file by a copy of ``source`` as :func:`write_text` does."""
    with replacing(path) as working:
        shutil.copyfile(source, working)


def copy_folder(source: Path, path: Path) -> None:
    """Make a folder, which must not be there, as a copy of ``source``; it gets its name when it is whole."""
    working = unique_name(path)
    try:
        shutil.copytree(source, working)
        working.rename(path)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's text so that readers see the old or the new, and a crash leaves one of them."""
    with replacing(path) as working:
        working.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of JSON a person can read."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """:func:`write_text` of a table without its index, as parquet or, where the name ends so, CSV."""
    with replacing(path) as working:
        if path.suffix == ".csv":
            table.to_csv(working, index=False)
        else:
            table.to_parquet(working, index=False)


def remove_leftovers(folder: Path, *, older_than: float = 0.0) -> None:
    """Delete what killed writers left below a folder that nobody else writes to, or nobody for so many seconds."""
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            if path.is_file() and time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
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


def bytes_in(folder: Path) -> int:
    """How much the files of a folder take, which need not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


_WRITE_FAILED = re.compile(r"os error \d+|I/O ?error|StreamWriter|unexpected pos|file write failed", re.IGNORECASE)
"""How safetensors, tokenizers and torch say that the disk did not take what they wrote, in exceptions of no errno."""


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Wrap the saving of weights and tokenizers: a failed write is an OSError; what else fails is what it is.

    Raises:
        OSError: the files could not be written.
        ValueError: the weights cannot be saved, for a reason of their own, such as too little memory to gather them.
    """
    try:
        yield
    except Exception as error:
        of_weights = isinstance(error, SafetensorError | RuntimeError)
        if not of_weights and type(error) is not Exception:  # of tokenizers it is this very class
            raise
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError) or _WRITE_FAILED.search(str(error)):
            raise OSError(f"cannot write into {folder}: {error}") from error
        if not of_weights:
            raise
        raise ValueError(f"model: its weights cannot be saved: {error}") from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
