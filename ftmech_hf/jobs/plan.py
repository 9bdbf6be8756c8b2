"""A plan: which runs an experiment needs, in what order, and in which folders.

A run's folder is named by what the run computes, so a plan finds the runs that are there already, runs that several
parts of an experiment need are made once, and changing one setting runs again only what depends on it.

A run's hash has its inputs' hashes in it, not their weights, which nobody knows before they are there. What a finished
run was made from is therefore compared with what is there now, and a run of other weights is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftmech_hf.config import to_dict
from ftmech_hf.jobs.cell import Cell
from ftmech_hf.jobs.trained_model import snapshot_folder
from ftmech_hf.models.identity import model_hash, run_model
from ftmech_hf.runs import FinishedRun, changed_inputs, damaged_files, is_finished, run_identity


class Plan:
    """Runs that build on each other.

    Args:
        root: where their folders lie.
        fresh: make finished runs again.

    Attributes:
        folders: name of a run -> its folder.
        not_made: runs that were to be made, and failed or needed one that did.
    """

    def __init__(self, root: str | Path, *, fresh: bool = False) -> None:
        self.root, self.fresh = Path(root), fresh
        self.folders: dict[str, Path] = {}
        self.not_made: set[str] = set()
        self._cells: dict[str, Cell] = {}
        self._hashes: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self._takes: dict[str, Mapping[str, str]] = {}
        self._inputs: dict[str, dict[str, str | Path]] = {}  # of each run: what is there, or where it will be

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
            cost: see :class:`ftmech_hf.jobs.cell.Cell`.

        Returns:
            the run's name, which is an earlier one's if that computes the same.
        """
        snapshot = getattr(place, "snapshot", None)
        if (anchor := getattr(place, "anchor_model", None)) is not None:  # a setting that names a model is an input
            inputs = {"anchor_model": anchor, **inputs}
        hashes = {label: self._identity_of(run, place if label == "model" else None) for label, run in inputs.items()}
        if hasattr(place, "models"):  # what their order says is asked of the place itself
            place = dataclasses.replace(place, models=[f"{label}={run}" for label, run in inputs.items()])
        for each in (place, *settings.values()):
            if callable(files := getattr(each, "inputs", None)):  # such as a task whose rows come from files
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
        needs = tuple(run for run in inputs.values() if run in self.folders)
        self._inputs[name] = hashes | {
            label: snapshot_folder(self.folders[run], snapshot) if snapshot and label == "model" else self.folders[run]
            for label, run in inputs.items()
            if run in self.folders
        }
        self.folders[name], self._hashes[name], self._names[identity] = folder, identity, name
        self._takes[name] = dict(inputs)
        # A finished folder that must run again is damaged or stale: replace it once the new one is whole.
        fresh = self.fresh or (is_finished(folder) and self.must_run(name))
        place = dataclasses.replace(place, output_dir=str(folder), fresh=fresh)
        self._kinds[name] = kind
        self._cells[name] = Cell(name, function, {"config": place, **settings}, cost, needs)
        return name

    def _identity_of(self, run: str, place: Any) -> str:
        """What identifies a model as an input, with a place whose snapshot of it is taken: of an own run its hash."""
        snapshot = getattr(place, "snapshot", None)
        if run in self._hashes:
            return self._hashes[run] if snapshot is None else f"{self._hashes[run]}-step-{snapshot}"
        return model_hash(run if snapshot is None else dataclasses.replace(place, model=run).start)

    def made_by(self, cell: Cell) -> list[str]:
        """The runs that a cell makes: its own, or all of those that it trains together."""
        if cell.name in self._cells:
            return [cell.name]
        places = {str(each.config.output_dir) for each in cell.kwargs["runs"]}
        return [name for name, folder in self.folders.items() if str(folder) in places]

    def called_with(self, name: str) -> Mapping[str, Any]:
        """The settings of a run: ``config``, and its others by the names of their parameters."""
        return self._cells[name].kwargs

    def taken_by(self, name: str) -> Mapping[str, str]:
        """Label -> what a run takes: the name of another run, or any other model."""
        return self._takes[name]

    def kind_of(self, name: str) -> str:
        """What a run is, as in :meth:`add`."""
        return self._kinds[name]

    def needs_of(self, name: str) -> list[str]:
        """The runs that a run needs, and those that these need, finished or not."""
        needs = list(self._cells[name].needs)
        return [*needs, *(earlier for need in needs for earlier in self.needs_of(need))]

    def by_kind(self) -> dict[str, list[Mapping[str, Any]]]:
        """Kind of a run -> what each run of that kind is called with."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for name, kind in self._kinds.items():
            found.setdefault(kind, []).append(self.called_with(name))
        return found

    def _find(self, identity: str) -> Path | None:
        """The run, finished or not; another plan in the same place may know it by another name."""
        places = [*self.root.glob(f"*-{identity}"), *self.root.glob(f"*-{identity}.partial")]
        return places[0].with_name(places[0].name.removesuffix(".partial")) if places else None

    def unfinished(self) -> list[Cell]:
        """The runs still to make, needs first, without needs that are there already.

        A finished run of what is still to be made is among them: it is kept if that comes out as it was, and else made
        again, as an interrupted one is begun again (:func:`~ftmech_hf.jobs.cell.make_again_if_changed`).
        """
        waiting: dict[str, Cell] = {}
        for name, cell in self._cells.items():
            needs = tuple(need for need in cell.needs if need in waiting)
            if needs or self.must_run(name):
                waiting[name] = dataclasses.replace(cell, needs=needs)
        return list(waiting.values())

    def find(self, name: str) -> FinishedRun | None:
        """A run by its name, opened; None if it is not there whole, or is one of before that was to be made again."""
        return None if name in self.not_made else FinishedRun.find(self.folders[name])

    @property
    def missing(self) -> list[str]:
        """Names of the runs that are not there, or were to be made again and were not."""
        return [name for name, folder in self.folders.items() if name in self.not_made or not is_finished(folder)]

    def seconds(self) -> float:
        """What the finished runs computed, in seconds of one core, together.

        Of runs that were made before runs knew, how long they took; of still older ones, how long their training did.
        """
        total = 0.0
        for name in self.folders:
            if made := self.find(name):
                known = (made.env.get(fact) for fact in ("cpu_seconds", "seconds", "training_seconds"))
                total += next((seconds for seconds in known if seconds is not None), 0.0)
        return total

    def must_run(self, name: str) -> bool:
        """Whether a run is to be made: it is not there whole, is made again, or of inputs that it has no more."""
        folder = self.folders[name]
        return self.fresh or not is_finished(folder) or bool(damaged_files(folder)) or self._is_stale(name)

    def _is_stale(self, name: str) -> bool:
        """Whether a finished run was made from other bytes than are there now."""
        there: dict[str, str] = {}
        for label, found in self._inputs[name].items():
            # What is not there yet, or cannot be read, is made itself first.
            with contextlib.suppress(OSError, ValueError, LookupError):
                there[label] = run_model(found) if isinstance(found, Path) else found
        made = FinishedRun(self.folders[name])
        return made.has("env.json") and bool(changed_inputs(made.env, there))
