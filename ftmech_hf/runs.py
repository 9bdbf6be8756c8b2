"""One run is one folder, and it is there only when it is whole.

A run works in ``NAME.partial`` and appears as ``NAME`` by rename, after ``manifest.json`` (size and sha256 of every
file) has been written. So a folder called ``NAME`` can be trusted, an interrupted run can go on where it stopped, and
nothing that was saved is ever overwritten. Checkpoints use the same two steps.

Layout: ``config.yaml`` (usable as ``--config`` again), ``env.json`` (versions, inputs, command), ``metrics.jsonl``,
``table.parquet``, the weights in the Hub's own layout, ``README.md`` (the card), ``manifest.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import yaml
from safetensors import SafetensorError

from ftmech_hf.config import LOCATION_FIELDS, config_hash
from ftmech_hf.credentials import without_secrets


class Identity(str):
    """What an input of a run is: the name that enters hashes, which is all it compares by, and the bytes behind it.

    The name of a finished run's model is the run's hash, under which other bytes can lie later: see
    :mod:`ftmech_hf.models.identity`. ``content`` is a sha256 of what was found; empty if the name says it all.
    """

    content: str

    def __new__(cls, name: str, content: str = "") -> Identity:
        """Like ``str``."""
        made = super().__new__(cls, name)
        made.content = content
        return made

    def __reduce__(self) -> tuple[type[Identity], tuple[str, str]]:
        return Identity, (str(self), self.content)

    def differs(self, other: Identity) -> bool:
        """Whether these cannot be the same: another name, or other bytes where both are known."""
        return self != other or bool(self.content and other.content and self.content != other.content)


class InputsChanged(ValueError):
    """A run's inputs have the names that they had, and other bytes."""


MANIFEST = "manifest.json"
LOCK = ".lock"
VERSIONED_PACKAGES = ("ftmech_hf", "torch", "transformers", "accelerate", "datasets", "nnsight", "numpy")


def write_text(path: Path, text: str) -> None:
    """Replace a file's text so that readers see the old or the new, and a crash leaves one of them."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """:func:`write_text` of JSON a person can read."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_disk_space(folder: Path, needed_bytes: int) -> None:
    """Make sure that ``folder``, which need not exist yet, can take that much; better now than at the last step.

    Raises:
        ValueError: it cannot.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ValueError(
            f"output_dir: {folder} needs about {needed_bytes / 1e6:.0f} MB for checkpoints and the model, "
            f"but only {free / 1e6:.0f} MB are free"
        )


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Wrap the saving of weights: safetensors and torch have exceptions of their own for a full disk."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        raise OSError(f"cannot write into {folder}: {error}") from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (MANIFEST, LOCK))


def commit_folder(working: Path, final: Path) -> None:
    """Write the manifest of ``working`` and rename it to ``final``, which must not exist."""
    sums = {}
    for path in _files(working):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sums[path.relative_to(working).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    write_json(working / MANIFEST, sums)
    (working / LOCK).unlink(missing_ok=True)
    working.rename(final)


def damaged_files(folder: Path) -> list[str]:
    """Files of a committed folder that are missing or differ from its manifest; the manifest itself if unreadable."""
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [MANIFEST]
    if not isinstance(sums, dict) or not all(isinstance(each, dict) and "sha256" in each for each in sums.values()):
        return [MANIFEST]
    return [
        name
        for name, expected in sums.items()
        if not (folder / name).is_file()
        or (folder / name).stat().st_size != expected["bytes"]
        or file_sha256(folder / name) != expected["sha256"]
    ]


def is_finished(folder: Path) -> bool:
    """Whether ``folder`` is a committed run."""
    return (folder / MANIFEST).is_file()


def count_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """What a number depends on beside the config: package versions, Python, machine and command."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": count_cores(),
        "command": without_secrets(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def run_identity(kind: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The hash of what a run computes: its kind, its settings without places, and the hashes of its inputs."""
    return config_hash({**config, "run:kind": kind, **{f"input:{name}": value for name, value in inputs.items()}})


def contents(inputs: Mapping[str, str]) -> dict[str, str]:
    """Label -> sha256 of the bytes of those inputs whose name does not fix them."""
    return {label: each.content for label, each in inputs.items() if isinstance(each, Identity) and each.content}


def changed_inputs(env: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """Labels of inputs whose bytes are not those that a run's ``env.json`` tells of; older runs tell of none."""
    recorded = env.get("contents", {})
    return [label for label, found in contents(inputs).items() if recorded.get(label, found) != found]


def describe_versions(env: Mapping[str, Any]) -> str:
    """The package versions of an ``env.json`` in one line."""
    return ", ".join(f"{name} {version}" for name, version in env["versions"].items())


class RunDir:
    """The folder of one run; make it with :meth:`open`.

    Attributes:
        path: where the finished run is, or will be.
        config: the settings, flat.
        hash: name of what the run computes: settings and inputs without places; see ``config_hash``.
        finished: whether the run was complete when opened; then nothing may be written.
    """

    def __init__(self, path: Path, config: dict[str, Any], run_hash: str, *, is_main: bool, finished: bool) -> None:
        self.path, self.config, self.hash = path, config, run_hash
        self.is_main, self.finished = is_main, finished
        self._lock: filelock.BaseFileLock | None = None
        self._opened = time.perf_counter()

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
            config: flat settings of plain values.
            inputs: name -> hash of what the run starts from, such as the base model.
            fresh: do not look for an earlier run; a finished one is replaced when the new one is whole.
            is_main: only the main process of a distributed run writes.

        Raises:
            ValueError: the folder holds something else, a run of another config, or is in use by another process.
        """
        path, inputs = Path(path), dict(inputs or {})
        settings = dict(config)
        run_hash = run_identity(kind, settings, inputs)
        run = cls(path, settings, run_hash, is_main=is_main, finished=False)
        if path.exists() and not is_finished(path):
            raise ValueError(f"output_dir: {path} exists and is no run of ours; choose another folder")
        if fresh and is_main and (run.working / "env.json").is_file():
            shutil.rmtree(run.working)
        if path.exists() and not fresh:
            run._check_same(path, inputs)
            run.finished = True
            return run
        if is_main:
            run._start(kind, inputs)
        return run

    def _start(self, kind: str, inputs: dict[str, str]) -> None:
        going_on = (self.working / "env.json").is_file()
        if self.working.exists() and not going_on and any(p.name != LOCK for p in self.working.iterdir()):
            raise ValueError(f"output_dir: {self.working} exists and is no run of ours; choose another folder")
        self.working.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.working / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"output_dir: another process is writing {self.path}; wait for it or stop it") from None
        if going_on:
            self._check_same(self.working, inputs)
            return
        write_text(self.working / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
        # env.json comes last: it marks the folder as ours and its config as written.
        facts = {"kind": kind, "hash": self.hash, "inputs": inputs, "contents": contents(inputs), **environment()}
        write_json(self.working / "env.json", facts)

    def _check_same(self, folder: Path, inputs: Mapping[str, str]) -> None:
        env = json.loads((folder / "env.json").read_text(encoding="utf-8"))
        if env["hash"] == self.hash:
            if changed := changed_inputs(env, inputs):
                raise InputsChanged(
                    f"output_dir: {folder} was made from other weights or files of {', '.join(changed)}, which was "
                    "made again since with the same settings; choose another --output_dir, or --fresh to replace it"
                )
            return
        found = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        names = [name for name in {**found, **self.config} if name not in LOCATION_FIELDS]
        differing = [n for n in names if found.get(n) != self.config.get(n)]
        there = env.get("inputs", {})
        others = ", ".join(label for label in {**there, **inputs} if there.get(label) != inputs.get(label))
        shown = ", ".join(f"{n}: {found.get(n)!r} there, {self.config.get(n)!r} asked" for n in differing[:3])
        raise ValueError(
            f"output_dir: {folder} holds a run of another config ({shown or f'its input {others} differs'}); "
            "choose another --output_dir, or --fresh to replace it"
        )

    @property
    def working(self) -> Path:
        """Where an unfinished run writes."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def folder(self) -> Path:
        """Where the run's files are now."""
        return self.path if self.finished else self.working

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        if self.is_main:
            with (self.working / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")

    def note(self, **facts: Any) -> None:
        """Add facts to ``env.json`` that are no results: times, the device, sizes."""
        if self.is_main:
            path = self.working / "env.json"
            write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **facts})

    def truncate_log(self, last_step: int) -> None:
        """Forget what was logged after ``last_step``, including a line cut short by a crash; -1 forgets all."""
        if self.is_main:
            lines = [json.dumps(row) + "\n" for row in read_metrics(self.folder) if row["step"] <= last_step]
            write_text(self.working / "metrics.jsonl", "".join(lines))

    def finish(self) -> None:
        """Write ``table.parquet`` and the manifest, and let the run appear under its name."""
        if not self.is_main:
            return
        rows = read_metrics(self.working)
        if rows:
            pd.DataFrame(rows).to_parquet(self.working / "table.parquet", index=False)
        self.note(seconds=round(time.perf_counter() - self._opened, 1))  # of the last uninterrupted stretch
        self.close()
        replaced = self.path.with_name(f".{self.path.name}.replaced")
        if self.path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            self.path.rename(replaced)
        commit_folder(self.working, self.path)
        shutil.rmtree(replaced, ignore_errors=True)
        self.finished = True

    def close(self) -> None:
        """Let other processes have the folder; an unfinished run stays as it is, to be gone on with."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def noted(folder: Path, fact: str) -> Any:
    """What :meth:`RunDir.note` wrote of a run, finished or not; None if it did not."""
    path = folder / "env.json"
    return json.loads(path.read_text(encoding="utf-8")).get(fact) if path.is_file() else None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; a last line cut short by a crash is left out."""
    path = folder / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
