"""A run that is there, opened to be read: what it was made with, and what it found.

:class:`ftmech_hf.runs.RunDir` writes runs. Whoever shows or publishes one opens it here, once, and passes it on.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ftmech_hf.runs.folders import damaged_files, is_finished
from ftmech_hf.runs.metrics import read_metrics
from ftmech_hf.statistics.intervals import share_interval

Floors = Mapping[tuple[str, int], Mapping[str, Any]]
"""(test set, rows) -> ``floor`` and ``text_free``."""


class FinishedRun:
    """What lies in a run's folder; every file is read when it is first asked for, and then kept.

    Args:
        folder: of a run, as a job left it; of results over many runs, as a study left them; or of a run that is about
            to be finished, whose files are there.

    Attributes:
        path: the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)

    @classmethod
    def find(cls, folder: str | Path) -> FinishedRun | None:
        """The run in a folder, if it is there whole."""
        return cls(folder) if is_finished(Path(folder)) else None

    def read_json(self, name: str) -> Any:
        """What a JSON file of it holds."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file()

    @functools.cached_property
    def env(self) -> dict[str, Any]:
        """Versions, inputs, machine, and what was noted while it ran (``env.json``)."""
        content: dict[str, Any] = self.read_json("env.json")
        return content

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Its settings (``config.yaml``)."""
        content: dict[str, Any] = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        return content

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """What a job found, in short (``summary.json``)."""
        content: dict[str, Any] = self.read_json("summary.json")
        return content

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, in the order of steps; empty if it trained nothing."""
        return read_metrics(self.path)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """The tidy table (``table.parquet``); not to be changed."""
        return pd.read_parquet(self.path / "table.parquet")

    @property
    def kind(self) -> str:
        """What made it, such as ``finetune``."""
        return str(self.env["kind"])

    @property
    def hash(self) -> str:
        """Name of what it computed."""
        return str(self.env["hash"])

    @property
    def inputs(self) -> dict[str, str]:
        """Label -> hash of what it was made from."""
        return dict(self.env.get("inputs", {}))

    @property
    def is_whole(self) -> bool:
        """Whether it is there with its manifest, which is written last."""
        return is_finished(self.path)

    @property
    def damaged_files(self) -> list[str]:
        """Files that are missing or differ from its manifest."""
        return damaged_files(self.path)

    @property
    def accuracy(self) -> list[dict[str, Any]]:
        """:func:`accuracy_of` after the last step."""
        return accuracy_of(self.metrics[-1], self.floors)

    @property
    def floors(self) -> Floors:
        """What is right without reading the texts of each test set, by its name and by how many rows were evaluated.

        None are known of runs that an earlier version made.
        """
        return {(each["name"], each["rows"]): each for each in self.env.get("floors", [])}

    @property
    def loss(self) -> list[dict[str, Any]]:
        """:func:`loss_of` after the last step."""
        return loss_of(self.metrics[-1], self.env.get("bytes_per_token", {}))

    def floor(self, test_set: str, rows: int | None = None) -> float | None:
        """How often one answer is right on a test set; None if the run does not know.

        Args:
            test_set: its name.
            rows: on so many of its rows; on the most that were evaluated if not given.
        """
        known = {number: found["floor"] for (name, number), found in self.floors.items() if name == test_set}
        return known.get(max(known, default=0) if rows is None else rows)


def accuracy_of(line: Mapping[str, Any], floors: Floors | None = None) -> list[dict[str, Any]]:
    """Accuracy on every test set in a line of ``metrics.jsonl``, with its 95 % Wilson interval and its floor.

    Args:
        line: as it was logged.
        floors: of the run, see :attr:`FinishedRun.floors`.

    Returns:
        ``name``, ``value``, ``low``, ``high``, ``rows``, and ``floor`` and ``text_free`` (see
        :mod:`ftmech_hf.statistics.floors`) of each; None where the run does not know its floors.
    """
    rows = []
    for key, value in line.items():
        if key.startswith("accuracy/"):
            name = key.removeprefix("accuracy/")
            number = line.get(f"eval_rows/{name}", line["eval_rows"])
            _, low, high = share_interval(round(value * number), number)
            known = (floors or {}).get((name, number), {})
            more = {column: known.get(column) for column in ("floor", "text_free")}
            rows.append({"name": name, "value": value, "low": low, "high": high, "rows": number, **more})
    return rows


def loss_of(line: Mapping[str, Any], bytes_per_token: Mapping[str, float]) -> list[dict[str, Any]]:
    """The losses in a line of ``metrics.jsonl``.

    Args:
        line: as it was logged.
        bytes_per_token: of every test set, from ``env.json``; models of different vocabularies compare by bytes alone.

    Returns:
        ``name``, ``value`` (nats per token) and ``per_byte`` (nats per byte of text) of each.
    """
    names = [key.removeprefix("loss/") for key in line if key.startswith("loss/")]
    return [
        {"name": name, "value": line[f"loss/{name}"], "per_byte": line[f"loss/{name}"] / bytes_per_token[name]}
        for name in names
    ]
