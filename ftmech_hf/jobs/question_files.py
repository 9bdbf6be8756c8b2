"""Questions as any user has them: a folder with a file of JSON lines for each split, to be named as a data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ftmech_hf.runs import write_text


def write_splits(folder: Path, splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> Path:
    """Write a data set, but no file that says the same already: a run that reads it may be under way.

    Args:
        folder: that is written.
        splits: ``train``, ``validation`` or ``test`` -> rows, such as ``{"prompt": ..., "answer": ...}``.

    Returns:
        the folder.
    """
    for split, rows in splits.items():
        text, path = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), folder / f"{split}.jsonl"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    return folder
