"""Whether a model stayed the same between the moment that it was hashed and the moment that it was loaded.

Another process may put a run made again into its folder meanwhile; what was computed from the new weights would then
stand under the hash of the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ftmech_hf.models.identity import model_files

FileStates = Mapping[str, Mapping[str, tuple[int, int, int]]]
"""Setting -> place of every file of its model -> its number on the disk, its size and when it was written."""


def file_states(models: Mapping[str, str]) -> FileStates:
    """How the files of models are now, by settings; nothing is read.

    Of a model on the Hub there is nothing to say: a commit stays what it is.

    Args:
        models: setting -> folder, file or name.
    """
    return {name: _states_of(Path(place)) for name, place in models.items()}


def _states_of(place: Path) -> dict[str, tuple[int, int, int]]:
    files = [place] if place.is_file() else model_files(place) if place.is_dir() else []
    return {str(path): (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]}


def check_unchanged(models: Mapping[str, str], before: FileStates) -> None:
    """Make sure that models of which :func:`file_states` said something are what they were.

    Raises:
        ValueError: one is not; names the setting.
    """
    for name, states in before.items():
        if _states_of(Path(models[name])) != states:
            raise ValueError(f"{name}: {models[name]} changed while it was read; try again when nothing writes it")
