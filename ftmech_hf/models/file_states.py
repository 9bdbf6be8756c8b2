"""Whether a model stayed the same between the moment that it was hashed and the moment that it was loaded.

Another process may put a run made again into its folder meanwhile; what was computed from the new weights would then
stand under the hash of the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ftmech_hf.models.identity import model_files

FileStates = Mapping[str, tuple[int, int, int]]


def file_states(name: str) -> FileStates:
    """Place of every file of a model -> its number on the disk, its size and when it was written; nothing is read.

    Of a model on the Hub there is nothing to say: a commit stays what it is.
    """
    place = Path(name)
    files = [place] if place.is_file() else model_files(place) if place.is_dir() else []
    return {str(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]}


def check_unchanged(models: Mapping[str, str], before: Mapping[str, FileStates]) -> None:
    """Make sure that models are what they were.

    Args:
        models: setting -> folder, file or name.
        before: setting -> what :func:`file_states` said of it.

    Raises:
        ValueError: one is not; names the setting.
    """
    if changed := [name for name, place in models.items() if file_states(place) != before[name]]:
        raise ValueError(
            f"{changed[0]}: {models[changed[0]]} changed while it was read; try again when nothing writes it"
        )
