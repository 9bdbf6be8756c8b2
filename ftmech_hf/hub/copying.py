"""The files of a run that are published: those that it left, and nothing that came to lie beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path

from ftmech_hf.runs import MANIFEST, is_temporary
from ftmech_hf.runs.results import named_results

INHERITANCE = "inheritance"
"""What a model keeps for a later task: rows that it was trained on may be among it, and so it stays here."""


def copy_run(run: Path, working: Path, leave_out: Collection[str] = (), *, part: str = "") -> None:
    """Copy what a run's manifest names, or the list of results; of a folder that has neither all but hidden files.

    Args:
        run: its folder.
        working: gets the files, and is there.
        leave_out: names at the top of what is copied.
        part: a folder in the run, of which alone the files are copied; all of it if empty.

    Raises:
        ValueError: a file that no manifest names is a link to something outside.
    """
    manifest, inside = run / MANIFEST, run / part
    named = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else named_results(run)
    for path in sorted(inside.rglob("*")):
        name = path.relative_to(inside)
        if not path.is_file() or name.parts[0] in leave_out or name.name == MANIFEST:
            continue
        if any(map(is_temporary, name.parts)):
            continue
        if named is None and any(each.startswith(".") for each in name.parts):
            continue
        if named is not None and path.relative_to(run).as_posix() not in named:
            continue
        if named is None and not path.resolve().is_relative_to(run.resolve()):
            raise ValueError(f"run: {path} is a link to {path.resolve()}, expected files in its folder")
        (working / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, working / name)
