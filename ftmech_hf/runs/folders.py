"""Folders that are there whole or not at all, whoever is killed when, and however many write at once.

A folder ``NAME`` is made in ``NAME.partial`` by one process alone, which holds the lock ``.NAME.lock`` beside it; a
manifest says when it is whole.
From then on it is only moved to its place, by the process that made it or, if that was killed, by the next one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ftmech_hf.runs.files import file_sha256, hidden_name, is_temporary, sync, write_json
from ftmech_hf.runs.lock import FolderLock

T = TypeVar("T")

MANIFEST = "manifest.json"

CHECKPOINTS = "checkpoints"
"""The folder in a run that is being made which is no part of it; it is there until the run is whole."""


def write_manifest(folder: Path, *, leave_out: str = "") -> None:
    """Write size and sha256 of every file, once all are on the disk: with this the folder is whole.

    Args:
        folder: what has been made.
        leave_out: name of a folder or a file at its top that is no part of it.
    """
    sums = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.parts[0] != leave_out and path.name != MANIFEST and not is_temporary(path.name):
            sync(path)
            sums[name.as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(folder / MANIFEST, sums)


def commit_folder(working: Path, final: Path, *, leave_out: str = "") -> None:
    """Write the manifest of ``working`` and rename it to ``final``, which must not exist.

    Args:
        working: what has been made.
        final: its name from now on.
        leave_out: see :func:`write_manifest`.
    """
    write_manifest(working, leave_out=leave_out)
    working.rename(final)


def _is_committed(folder: Path) -> bool:
    """Whether a folder has a manifest of ours: many programs have a file of that name.

    One of ours that is damaged stands beside the ``env.json`` of a run, which others have as well.
    """
    if not (folder / MANIFEST).is_file():
        return False
    return folder_hash(folder) is not None or _read_manifest(folder) is not None


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Files of a folder -> their sizes and sums; None if that is unreadable, or none of ours."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = {"sha256", "bytes"}
    if (
        isinstance(sums, dict)
        and sums
        and all(isinstance(each, dict) and each.keys() >= known for each in sums.values())
    ):
        return sums
    return None


def damaged_files(folder: Path) -> list[str]:
    """Files of a committed folder that are missing or differ from its manifest; the manifest itself if unreadable."""
    sums = _read_manifest(folder)
    if sums is None:
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
        and hidden_name(folder, "replaced").exists()
    ):
        with contextlib.suppress(OSError):  # of others, perhaps, and not ours to write to
            lock = FolderLock(folder)
            if lock.acquire(timeout=1):  # a living process is here for no longer than two renames take
                try:
                    recover(folder)
                finally:
                    lock.release()
    return _is_committed(folder)


@contextlib.contextmanager
def making(path: Path, setting: str) -> Iterator[Path]:
    """Make a new folder in one process alone; it is written to in what this gives, which is to be renamed at the end.

    Raises:
        ValueError: another process is making it, or a run that is not finished is there; names ``setting``.
    """
    lock, working = FolderLock(path), working_folder(path)
    mark = hidden_name(working, "tmp")  # says that the folder is ours, and goes with it
    if (working / "env.json").is_file():
        raise ValueError(f"{setting}: {working} is a run that was interrupted; finish it, or choose another folder")
    if not lock.acquire():
        raise ValueError(f"{setting}: another process is writing {path}; wait for it, or choose another folder")
    try:
        if not mark.exists() and working.exists() and any(working.iterdir()):
            raise ValueError(f"{setting}: {working} is there, and no folder of ours; move it away, or choose another")
        mark.touch()
        shutil.rmtree(working, ignore_errors=True)  # of a killed one
        working.mkdir()
        yield working
    finally:
        if mark.exists():
            shutil.rmtree(working, ignore_errors=True)
            mark.unlink()
        lock.release()


def working_folder(path: Path) -> Path:
    """Where the folder ``path`` is made."""
    return path.with_name(path.name + ".partial")


def _remove(folder: Path) -> None:
    """Remove a folder as far as that goes; of a link to one the link, and nothing of what it leads to."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _empty_place(path: Path) -> Path:
    """Where something of the folder ``path``, whose lock is held, can be that must not be taken for it."""
    place = hidden_name(path, "discarded")
    _remove(place)
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
    _remove(place)  # what cannot be removed now is, next time


def appear(path: Path) -> None:
    """Move what was made, and is whole, to its place; a committed folder there gives way. The lock of ``path`` is held.

    Raises:
        ValueError: something else is there.
    """
    working, replaced = working_folder(path), hidden_name(path, "replaced")
    if (working / CHECKPOINTS).exists():
        shutil.rmtree(working / CHECKPOINTS)  # not before now: the manifest is there, so nothing needs them any more
    if path.exists():
        if not _is_committed(path):
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
    working, replaced = working_folder(path), hidden_name(path, "replaced")
    if (working / MANIFEST).is_file():
        if damaged_files(working):  # by more than a kill: what was said to be on the disk is not; or it is none of ours
            if (working / "env.json").is_file():
                (working / MANIFEST).unlink()
        elif not path.exists() or _is_committed(path):
            appear(path)
    if replaced.exists():
        if path.exists():
            discard(replaced, path)
        else:
            replaced.rename(path)


def tidy(path: Path) -> None:
    """Remove what a killed process left beside a committed folder, if that is ours to remove and nobody is at work."""
    if not any(hidden_name(path, ending).exists() for ending in ("lock", "replaced", "discarded")):
        return
    lock = FolderLock(path)
    with contextlib.suppress(OSError):
        if lock.acquire():
            try:
                if _is_committed(path):
                    if hidden_name(path, "replaced").exists():
                        discard(hidden_name(path, "replaced"), path)
                    _empty_place(path)
            finally:
                lock.release()


def folder_hash(folder: Path) -> str | None:
    """What a run's folder says it is; None if it says nothing."""
    try:
        return str(json.loads((folder / "env.json").read_text(encoding="utf-8"))["hash"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def look_again(path: Path, look: Callable[[], T]) -> T:
    """What is seen of the folder ``path`` while nobody moves a run away and its successor there.

    If another process holds the folder for longer than that takes, or if nothing can be written there, nobody moves it.
    """
    lock = FolderLock(path)
    with contextlib.suppress(OSError):
        lock.acquire(timeout=1)
    try:
        return look()
    finally:
        lock.release()


def refuse_foreign(path: Path, *, held: bool = False) -> None:
    """Refuse a folder that holds anything but a finished run; ``held`` says whether its lock is."""

    if path.is_symlink() and not path.exists():  # a disk that is not mounted, perhaps; nothing can appear in its place
        raise ValueError(f"output_dir: {path} is a link to {path.readlink()}, which is not there; remove the link")

    def is_foreign() -> bool:
        return path.exists() and not is_finished(path)

    if is_foreign() and (held or look_again(path, is_foreign)):
        raise ValueError(f"output_dir: {path} exists and is no run of ours; choose another folder")


def refuse_to_replace(path: Path, inputs: Mapping[str, str], places: Iterable[str | Path] = ()) -> None:
    """Refuse to make a run anew where what it is made from lies, of which nothing would be left.

    Args:
        path: the run's folder.
        inputs: label -> what the run starts from; a snapshot is a part of its run.
        places: files and folders that it reads.
    """
    if not is_finished(path):
        return
    own, folder = folder_hash(path), path.resolve()
    read = [name for name, each in inputs.items() if own and str(each).partition("-step-")[0] == own]
    read += [str(place) for place in places if folder in (Path(place).resolve(), *Path(place).resolve().parents)]
    if read:
        raise ValueError(
            f"output_dir: {path} is what this run reads ({read[0]}) and would be replaced, expected another folder"
        )


def refuse_files(places: Mapping[str, str | Path | None]) -> None:
    """Refuse settings that name folders to be made where a file is, or below one."""
    for name, place in places.items():
        above = [] if place is None else [Path(place), *Path(place).parents]
        if file := next((each for each in above if each.exists() and not each.is_dir()), None):
            raise ValueError(f"{name}: {place}, but {file} is a file, expected a folder")
