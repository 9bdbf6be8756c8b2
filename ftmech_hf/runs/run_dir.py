"""One run is one folder, and it is there only when it is whole.

A run works in ``NAME.partial`` and appears as ``NAME`` by rename, after ``manifest.json`` (size and sha256 of every
file) has been written. So a folder called ``NAME`` can be trusted, an interrupted run can go on where it stopped, and
nothing that was saved is ever overwritten. Checkpoints use the same two steps.

Layout: ``config.yaml`` (usable as ``--config`` again), ``env.json`` (versions, inputs, command), ``metrics.jsonl``,
``table.parquet``, the weights in the Hub's own layout, ``README.md`` (the card), ``manifest.json``.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ftmech_hf.config.notices import tell
from ftmech_hf.config.settings import Settings
from ftmech_hf.runs.environment import (
    code_version,
    cpu_seconds,
    describe_differences,
    environment,
    forget_peak_memory,
    peak_memory_gb,
)
from ftmech_hf.runs.files import remove_leftovers, write_json, write_text
from ftmech_hf.runs.folders import (
    CHECKPOINTS,
    appear,
    begin,
    discard,
    folder_hash,
    is_finished,
    look_again,
    recover,
    refuse_foreign,
    refuse_to_replace,
    tidy,
    working_folder,
    write_manifest,
)
from ftmech_hf.runs.inputs import (
    InputsChanged,
    changed_inputs,
    check_inputs_named,
    contents,
    place_of,
    read_places,
    refuse_another,
    run_identity,
)
from ftmech_hf.runs.lock import FolderInUse, FolderLock
from ftmech_hf.runs.metrics import FILE as METRICS
from ftmech_hf.runs.metrics import log_line, read_metrics


def refuse_other_run(path: str | Path, kind: str, config: Settings, inputs: Mapping[str, str]) -> None:
    """Refuse, before the inputs of a run are made, a folder in which :meth:`RunDir.open` would find another run.

    Args:
        path, kind, config: see :meth:`RunDir.open`.
        inputs: its inputs, also those that are still to be made.

    Raises:
        ValueError: the folder holds a run of another config; says what differs.
    """
    path = Path(path)
    hashes = {folder: folder_hash(folder) for folder in (path, working_folder(path))}
    there = [folder for folder, found in hashes.items() if found is not None]
    if there and run_identity(kind, config, inputs) not in hashes.values():
        refuse_another(there[0], kind, config, inputs)


class RunDir:
    """The folder of one run; make it with :meth:`open`.

    Attributes:
        path: where the finished run is, or will be.
        config: the settings, flat.
        hash: name of what the run computes: settings and inputs without places; see ``config_hash``.
        finished: whether the run was complete when opened; then nothing may be written.
        inputs: name -> hash of what the run starts from.
    """

    def __init__(self, path: Path, config: dict[str, Any], run_hash: str, *, is_main: bool, finished: bool) -> None:
        self.path, self.config, self.hash = path, config, run_hash
        self.is_main, self.finished = is_main, finished
        self._lock = FolderLock(path)
        self._replaces = False
        self.inputs: dict[str, str] = {}
        self._kind = ""
        self._opened, self._computed = time.perf_counter(), cpu_seconds()

    @classmethod
    def open(
        cls,
        path: str | Path,
        kind: str,
        config: Mapping[str, Any],
        *,
        inputs: Mapping[str, str] | None = None,
        fresh: bool = False,
        is_main: bool = True,
    ) -> RunDir:
        """Start a run, or find it finished, or go on with an interrupted one.

        Args:
            path: the run's folder.
            kind: what made it, such as ``pretrain``.
            config: flat settings of plain values, as :func:`ftmech_hf.config.to_dict` makes them.
            inputs: name -> hash of what the run starts from, such as the base model.
            fresh: start over; a finished run is replaced when the new one is whole. If that is interrupted, the same
                without ``fresh`` goes on with it.
            is_main: only the main process of a distributed run looks at the folder and writes; it tells the others
                whether the run is ``finished``.

        Raises:
            ValueError: the folder holds something else, a run of another config, or is in use by another process
                (:class:`~ftmech_hf.runs.lock.FolderInUse`).
        """
        path, inputs = Path(path), dict(inputs or {})
        if not path.name:
            raise ValueError(f"output_dir: {str(path)!r}, expected a folder of its own, which has a name")
        settings = config if isinstance(config, Settings) else dict(config)
        check_inputs_named(settings, inputs)
        run = cls(path, settings, run_identity(kind, settings, inputs), is_main=is_main, finished=False)
        run.inputs, run._kind = inputs, kind
        if not is_main:
            return run
        refuse_foreign(path)
        if fresh:
            read = itertools.chain.from_iterable(read_places(settings).values())
            refuse_to_replace(path, inputs, filter(None, map(place_of, read)))
        # Nothing is locked to find a finished run: it may lie where nobody can write, and many may look at once.
        run.finished = not fresh and is_finished(path) and not run._is_replacing()
        try:
            if not run.finished:
                run._lock_folder(fresh)
            if run.finished:
                try:
                    run._check_same(path)
                except FileNotFoundError:  # another process is replacing it just now
                    look_again(path, lambda: run._check_same(path))
                run.close()
                tidy(path)
            else:
                run._start(kind, inputs)
                forget_peak_memory()
        except BaseException:
            run.close()
            raise
        return run

    def _is_replacing(self) -> bool:
        """Whether this very run was begun, to replace the one that is there, and nobody is making it now."""
        return self._holds_this(self.working) and self._lock.acquire()

    def _holds_this(self, folder: Path) -> bool:
        return folder_hash(folder) == self.hash

    def _lock_folder(self, fresh: bool) -> None:
        """Before anything is looked at or removed; then bring to its end what a killed process left."""
        if not self._lock.held and not self._lock.acquire():
            raise FolderInUse.of(self.path)
        recover(self.path)
        refuse_foreign(self.path, held=True)
        self._replaces = is_finished(self.path)
        ours = (self.working / "env.json").is_file()
        if fresh and ours:
            discard(self.working, self.path)
        elif self._replaces and not fresh:  # made by another process just now, or here, by bringing it to its end
            self.finished = not self._holds_this(self.working)

    def _start(self, kind: str, inputs: dict[str, str]) -> None:
        if (self.working / "env.json").is_file():
            self._check_same(self.working)
            remove_leftovers(self.working)
            return
        if self.working.exists() and any(self.working.iterdir()):
            raise ValueError(f"output_dir: {self.working} exists and is no run of ours; choose another folder")

        def write(folder: Path) -> None:
            write_text(folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            facts = {"kind": kind, "hash": self.hash, "inputs": inputs, "contents": contents(inputs),
                     "places": read_places(self.config), **self._present()}  # fmt: skip
            write_json(folder / "env.json", facts)

        begin(self.path, write)

    def _check_same(self, folder: Path) -> None:
        env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
        if env["hash"] != self.hash:
            refuse_another(folder, self._kind, self.config, self.inputs)
        self._check_made_from(folder, env)

    def _check_made_from(self, folder: Path, env: Mapping[str, Any]) -> None:
        """Refuse what was made from other bytes; say what was made by another version or other code."""
        if changed := changed_inputs(env, self.inputs):
            raise InputsChanged(
                f"output_dir: {folder} was made from other weights or files of {', '.join(changed)}, which was "
                "made again since with the same settings; choose another --output_dir, or --fresh to replace it"
            )
        if difference := describe_differences(env, self._present()):
            done = "was made with" if folder == self.path else "is gone on with, begun with"
            tell(f"{folder} {done} {difference}; --fresh makes it again")

    def _present(self) -> dict[str, Any]:
        sources = self.config.sources if isinstance(self.config, Settings) else ()
        return {**environment(), "code": code_version(sources)}

    @property
    def working(self) -> Path:
        """Where an unfinished run writes."""
        return working_folder(self.path)

    @property
    def folder(self) -> Path:
        """Where the run's files are now."""
        return self.path if self.finished else self.working

    def _check_held(self) -> None:
        """Nothing may be written that could be another process' by now.

        Raises:
            ValueError: somebody deleted the lock's file, or all there was.
        """
        if not self._lock.held:
            raise ValueError(
                f"output_dir: {self.path} is not held by this process any more; was it removed, or taken by another?"
            )

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        if self.is_main:
            self._check_held()
            log_line(self.working, metrics)

    def note(self, **facts: Any) -> None:
        """Add facts to ``env.json`` that are no results: times, the device, sizes."""
        if self.is_main:
            self._check_held()
            path = self.working / "env.json"
            write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **facts})

    def truncate_log(self, last_step: int) -> None:
        """Forget what was logged after ``last_step``, including a line cut short by a crash; -1 forgets all."""
        if self.is_main:
            self._check_held()
            lines = [json.dumps(row) + "\n" for row in read_metrics(self.folder) if row["step"] <= last_step]
            write_text(self.working / METRICS, "".join(lines))

    def finish(self, *, computed: float | None = None) -> None:
        """Write ``table.parquet`` and the manifest, and let the run appear under its name.

        Once the manifest is there the run is whole: if this is stopped later, the next one to open it lets it appear.

        Args:
            computed: seconds of one core that went into it, where this process made other runs at the same time; all
                that the process computed since the run was opened if not given.

        Raises:
            ValueError: something has come to lie there, or the folder was taken by another process.
        """
        if not self.is_main:
            return
        self._check_held()
        if self.path.exists() and not self._replaces:
            raise ValueError(f"output_dir: {self.path} came to be while its run was made; move it away and run again")
        rows = read_metrics(self.working)
        if rows:
            pd.DataFrame(rows).to_parquet(self.working / "table.parquet", index=False)
        peak = peak_memory_gb()
        computed = cpu_seconds() - self._computed if computed is None else computed
        self.note(  # of the last uninterrupted stretch
            seconds=round(time.perf_counter() - self._opened, 1),
            cpu_seconds=round(computed, 1),
            peak_gb=None if peak is None else round(peak, 2),
        )
        write_manifest(self.working, leave_out=CHECKPOINTS)
        self._check_held()
        appear(self.path)
        self.finished = True
        self.close()

    def close(self) -> None:
        """Let other processes have the folder, and write nothing more; an unfinished run can be opened again."""
        self._lock.release()


def noted(folder: Path, fact: str) -> Any:
    """What :meth:`RunDir.note` wrote of a run, finished or not; None if it did not."""
    path = folder / "env.json"
    return json.loads(path.read_text(encoding="utf-8")).get(fact) if path.is_file() else None
