"""The files of a study's results: all of them are new, or all are what they were.

They are written into a hidden folder below their own. Whoever is killed before all are whole leaves the old results as
they were; whoever is killed while they get their names leaves the rest whole, and the next to come gives it theirs.
What earlier results had and these have not, such as the picture of another grid, is removed: a hidden list says which
files were results. Nothing else in the folder is touched.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from ftmech_hf.runs.files import hidden_name, sync, write_json
from ftmech_hf.runs.lock import FolderLock

NAMES = ".results.json"
"""The hidden list of what is a result."""
WAIT_SECONDS = 600.0
"""For another process that writes results into the same folder; the largest page takes minutes."""


@contextlib.contextmanager
def replacing_results(folder: Path) -> Iterator[Path]:
    """Give the files of a folder of results a place to be written to; they get their names together.

    Args:
        folder: of the results, which has no folders of them; is made if it is not there.

    Raises:
        OSError: nothing can be written there.
        TimeoutError: another process has been writing results there for :data:`WAIT_SECONDS`.
    """
    place = folder / "results"
    working, whole = hidden_name(place, "tmp"), hidden_name(place, "whole.tmp")
    lock = FolderLock(place)
    if not lock.acquire(timeout=WAIT_SECONDS):
        raise TimeoutError(f"another process is writing results into {folder}; try again when it is done")
    try:
        _give_names(whole, folder)
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir()
        yield working
        files = sorted(working.iterdir())
        for path in files:
            sync(path)
        write_json(working / NAMES, [path.name for path in files])
        working.rename(whole)
        _give_names(whole, folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
        lock.release()


def recover_results(folder: Path) -> None:
    """Give the rest of the files their names where whoever wrote them was killed meanwhile."""
    place = folder / "results"
    if (whole := hidden_name(place, "whole.tmp")).is_dir():
        lock = FolderLock(place)
        if lock.acquire():  # else somebody is writing new ones
            try:
                _give_names(whole, folder)
            finally:
                lock.release()


def named_results(folder: Path) -> list[str] | None:
    """The files that are a study's results; None of a folder of other kinds, or of an earlier version."""
    return _names(folder) if (folder / NAMES).is_file() else None


def _give_names(whole: Path, folder: Path) -> None:
    """Move what is whole to where it belongs."""
    if (whole / NAMES).is_file():  # it is the last to be moved
        new = _names(whole)
        for name in new:
            if (whole / name).is_file():  # else whoever was killed had moved it
                (whole / name).replace(folder / name)
        for name in {*_names(folder)} - {*new}:
            (folder / name).unlink(missing_ok=True)
        (whole / NAMES).replace(folder / NAMES)
    shutil.rmtree(whole, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    """What the list in a folder names, all of it in that folder itself; nothing if there is none."""
    file = folder / NAMES
    named = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return [name for name in named if Path(name).name == name]
