"""A plan: which runs an experiment needs, in what order, and in which folders.

A run's folder is named by what the run computes, so a plan finds the runs that are there already, runs that several
parts of an experiment need are made once, and changing one setting runs again only what depends on it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftmech_hf.config import to_dict
from ftmech_hf.models.loading import model_hash
from ftmech_hf.runs import damaged_files, is_finished, run_identity
from ftmech_hf.training.sweep import Cell


class Plan:
    """Runs that build on each other.

    Args:
        root: where their folders lie.
        fresh: make finished runs again.

    Attributes:
        folders: name of a run -> its folder.
    """

    def __init__(self, root: str | Path, *, fresh: bool = False) -> None:
        self.root, self.fresh = Path(root), fresh
        self.folders: dict[str, Path] = {}
        self._cells: dict[str, Cell] = {}
        self._hashes: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def add(
        self,
        name: str,
        kind: str,
        function: Callable[..., Any],
        place: Any,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        cost: float,
    ) -> str:
        """Add a run, unless one that computes the same is there.

        Args:
            name: what to call it, in its folder's name too.
            kind: as in :meth:`ftmech_hf.runs.RunDir.open`.
            function: makes the run; called as ``function(config=place, **settings)``.
            place: its config with an ``output_dir``.
            settings: its other configs, by the names of their parameters.
            inputs: label -> the model it takes: name of an earlier run, or any other model's folder or name.
            cost: see :class:`ftmech_hf.training.sweep.Cell`.

        Returns:
            the run's name, which is an earlier one's if that computes the same.
        """
        snapshot = getattr(place, "snapshot", None)
        suffix = "" if snapshot is None else f"-step-{snapshot}"
        hashes = {
            label: self._hashes[run] + suffix if run in self._hashes else model_hash(run)
            for label, run in inputs.items()
        }
        for each in settings.values():
            if callable(files := getattr(each, "inputs", None)):  # a task whose rows come from files
                hashes |= files()
        identity = run_identity(kind, to_dict(place, *settings.values()), hashes)
        if identity in self._names:
            return self._names[identity]
        if name in self._cells:
            name = f"{name}-{identity[:6]}"
        folder = self._find(identity) or self.root / f"{name}-{identity}"
        models = {label: str(self.folders.get(run, run)) for label, run in inputs.items()}
        if hasattr(place, "models"):
            place = dataclasses.replace(place, models=[f"{label}={path}" for label, path in models.items()])
        else:
            place = dataclasses.replace(place, **models)
        # A finished folder that must run again is damaged: replace it once the new one is whole.
        fresh = self.fresh or (is_finished(folder) and self._must_run(folder))
        place = dataclasses.replace(place, output_dir=str(folder), fresh=fresh)
        needs = tuple(run for run in inputs.values() if run in self.folders)
        self._cells[name] = Cell(name, function, {"config": place, **settings}, cost, needs)
        self.folders[name], self._hashes[name], self._names[identity] = folder, identity, name
        return name

    def _find(self, identity: str) -> Path | None:
        """The run, finished or not; another plan in the same place may know it by another name."""
        places = [*self.root.glob(f"*-{identity}"), *self.root.glob(f"*-{identity}.partial")]
        return places[0].with_name(places[0].name.removesuffix(".partial")) if places else None

    def unfinished(self) -> list[Cell]:
        """The runs still to make, needs first, without needs that are there already."""
        done = {name for name, folder in self.folders.items() if not self._must_run(folder)}
        return [
            dataclasses.replace(cell, needs=tuple(need for need in cell.needs if need not in done))
            for name, cell in self._cells.items()
            if name not in done
        ]

    def seconds(self) -> float:
        """What the finished runs took, each in its one thread, together; of those made before runs knew, training."""
        total = 0.0
        for folder in self.folders.values():
            if is_finished(folder):
                env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
                total += env.get("seconds", env.get("training_seconds", 0.0))
        return total

    def _must_run(self, folder: Path) -> bool:
        return self.fresh or not is_finished(folder) or bool(damaged_files(folder))
