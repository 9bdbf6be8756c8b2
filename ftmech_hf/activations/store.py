"""Activations on disk: written while they are collected, read without loading them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.runs import FolderLock, commit_folder, damaged_files, write_json

INDEX = "index.json"


class ActivationStore(Mapping[tuple[str, int], NDArray[np.float32]]):
    """A folder of activations: (site, layer) -> memory-mapped float32 array, (rows, positions, width).

    It is there only when it is whole: :class:`StoreWriter` writes beside it and renames.

    Args:
        folder: made by :meth:`ftmech_hf.activations.TracedModel.collect_to`.

    Attributes:
        facts: what was collected: ``sites``, ``layers``, ``positions``, ``rows``, and ``model``, the hash of the model.

    Raises:
        ValueError: there is no such folder, or a file of it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise ValueError(f"activations: {self.folder} holds none")
        if damaged := damaged_files(self.folder):
            raise ValueError(f"activations: {self.folder} is damaged: {', '.join(damaged)}")
        self.facts = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))

    def __getitem__(self, key: tuple[str, int]) -> NDArray[np.float32]:
        if key not in list(self):
            raise KeyError(key)
        array: NDArray[np.float32] = np.load(self.folder / _file_name(*key), mmap_mode="r", allow_pickle=False)
        return array

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((site, layer) for layer in self.facts["layers"] for site in self.facts["sites"])

    def __len__(self) -> int:
        return len(self.facts["sites"]) * len(self.facts["layers"])


def _file_name(site: str, layer: int) -> str:
    return f"{site}.{layer}.npy"


class StoreWriter:
    """Writes a store row by row; holds no more than one batch in memory. A context that leaves nothing of half a store.

    Args:
        folder: of the store; must not exist.
        rows: how many there will be.
        facts: see :class:`ActivationStore`.
    """

    def __init__(self, folder: str | Path, rows: int, facts: Mapping[str, object]) -> None:
        self.folder, self.rows, self.facts = Path(folder), rows, dict(facts)
        if self.folder.exists():
            raise ValueError(f"activations: {self.folder} exists; choose another folder")
        self._lock = FolderLock(self.folder)
        if not self._lock.acquire():
            raise ValueError(f"activations: another process is writing {self.folder}; wait for it, or choose another")
        self.working = self.folder.with_name(self.folder.name + ".partial")
        shutil.rmtree(self.working, ignore_errors=True)
        self.working.mkdir(parents=True)
        self._done: dict[tuple[str, int], int] = {}

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.working, ignore_errors=True)  # renamed, where it was finished
        self._lock.release()

    def append(self, key: tuple[str, int], values: NDArray[np.float32]) -> None:
        """Write the next rows of one site, (B, positions, width)."""
        # Appended to, not mapped: a map's written pages would count as this process' memory.
        with (self.working / _file_name(*key)).open("ab") as file:
            if key not in self._done:
                shape = (self.rows, *values.shape[1:])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(values, "<f4").data)
        self._done[key] = self._done.get(key, 0) + len(values)

    def close(self) -> ActivationStore:
        """Finish the store, which then appears under its own name.

        Raises:
            ValueError: fewer rows were written than announced.
        """
        for key, done in self._done.items():
            if done != self.rows:
                raise ValueError(f"activations: {done} of {self.rows} rows of {key} were written")
        write_json(self.working / INDEX, {**self.facts, "rows": self.rows})
        commit_folder(self.working, self.folder)
        return ActivationStore(self.folder)
