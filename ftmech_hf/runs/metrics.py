"""What is logged while a run is made: ``metrics.jsonl``, one line for each evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


def log_line(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Append a line to the log of the run in a folder, and wait until it is on the disk.

    A checkpoint that comes after it is waited for, too: where power fails, no line before it may be missing.
    """
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(metrics) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; a last line cut short by a crash is left out.

    Raises:
        ValueError: another line is damaged; without it, or without those behind it, nobody would know.
    """
    path = folder / FILE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(
                    f"output_dir: line {number} of {path} is damaged; --fresh makes the run again"
                ) from None
    return rows
