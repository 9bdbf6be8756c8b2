"""Where the records of raw files lie, so that any of them can be read alone and no file is held whole."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.runs import replacing
from ftmech_hf.tasks.stories.cache import cache_folder, hash_file, source_hash
from ftmech_hf.tasks.stories.raw import RawRecord
from ftmech_hf.tasks.stories.records import FEATURES, JSON, Damage, Story, parse_record, read_placed
from ftmech_hf.tasks.stories.sources import find_sources

KEPT_BACK = {"test": 0.02, "validation": 0.02, "probe": 0.02}
"""Shares of the records that no training sees. ``train``, ``finetune`` and ``reverse`` draw from all the others, each
in an order of its own: there are only so many stories. With ``own_records`` each has a part of them."""

OWN_RECORDS = {"finetune": 0.1, "reverse": 0.1}
"""The shares of the records that fine-tuning and reversing then have for themselves; pretraining has all that is left.
The code of Jain et al. can keep a fifth of its files from pretraining, for all fine-tuning."""


@dataclass(frozen=True)
class StoryIndex:
    """The usable records of raw files, in order.

    Attributes:
        files: the files.
        digests: the hash of each, as it was indexed.
        file: which of them each record is in, int32 (N,).
        start, stop: its bytes there, int64 (N,).
        features: of the story, a bit for each of :data:`FEATURES`, uint8 (N,).
        draw: a hash of the story's text as a number from 0 to 1, float64 (N,): it decides the split, so that a story
            which is there twice is in one split.
        damage: what could not be used, in words.
        lost: how many records that is.
    """

    files: tuple[Path, ...]
    digests: tuple[str, ...]
    file: NDArray[np.int32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    features: NDArray[np.uint8]
    draw: NDArray[np.float64]
    damage: str
    lost: int

    def __len__(self) -> int:
        return len(self.file)

    def read(self, number: int) -> Story:
        """One record, from the disk.

        Raises:
            ValueError: its file has changed.
        """
        place = int(self.file[number])
        path, start = self.files[place], int(self.start[number])
        if hash_file(path) != self.digests[place]:  # a hash is taken again only if size or time changed
            raise ValueError(f"files: {path} has changed since it was first read; start again")
        handle = os.open(path, os.O_RDONLY)
        try:
            content = os.pread(handle, int(self.stop[number]) - start, start)
        finally:
            os.close(handle)
        return parse_record(RawRecord(start, content), is_json=path.suffix in JSON)

    def of_split(self, split: str, *, own_records: bool = False) -> NDArray[np.bool_]:
        """Which records a split may draw.

        Args:
            split: its name.
            own_records: pretraining, fine-tuning and reversing have none in common.
        """
        low = 0.0
        for name, share in (KEPT_BACK | (OWN_RECORDS if own_records else {})).items():
            if name == split:
                return (self.draw >= low) & (self.draw < low + share)
            low += share
        return self.draw >= low

    def having(self, feature: str) -> NDArray[np.bool_]:
        """Which records have a feature."""
        return (self.features >> FEATURES.index(feature) & 1).astype(bool)


def index_files(names: Sequence[str]) -> StoryIndex:
    """Index sources of stories; what was found is kept in memory, and on disk under the hashes of the files.

    Args:
        names: see :func:`ftmech_hf.tasks.stories.sources.find_sources`.

    Raises:
        ValueError: one that is not there, cannot be read, or holds no usable record.
    """
    return _index_files(tuple((*source, hash_file(source.path)) for source in find_sources(names)))


@functools.lru_cache(maxsize=8)
def _index_files(files: tuple[tuple[str, Path, str], ...]) -> StoryIndex:
    parts, damage = [], Damage()
    for name, path, digest in files:
        part, found = _index_file(path, digest)
        parts.append(part)
        damage.read += found.read
        damage.reasons += found.reasons
        if not found.read:
            raise ValueError(f"files: {name} holds no usable record ({found})")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    file = np.repeat(np.arange(len(files), dtype=np.int32), [len(part["start"]) for part in parts])
    _, paths, digests = zip(*files, strict=True)
    return StoryIndex(paths, digests, file, **columns, damage=str(damage), lost=damage.reasons.total())


def draw_of(text: str, seed: int | None = None) -> float:
    """A hash of a text, and of a seed if there is one, as a number from 0 to 1."""
    content = text if seed is None else f"{seed}\n{text}"
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little") / 2**64


def _index_file(path: Path, digest: str) -> tuple[dict[str, NDArray[np.generic]], Damage]:
    kept = (
        cache_folder()
        / f"index-{source_hash('index.py', 'raw.py', 'records.py')}-{path.suffix.removeprefix('.')}-{digest}.npz"
    )
    if kept.is_file():
        with np.load(kept) as saved:
            columns = {name: saved[name] for name in saved.files}
        lost = json.loads(str(columns.pop("reasons")))
        damage = Damage(read=len(columns["start"]))
        damage.reasons.update(lost)
        return columns, damage
    columns, damage = _read_columns(path)
    with replacing(kept) as working, working.open("wb") as file:
        np.savez(file, reasons=np.array(json.dumps(damage.reasons)), **columns)  # type: ignore[arg-type]
    return columns, damage


def _read_columns(path: Path) -> tuple[dict[str, NDArray[np.generic]], Damage]:
    damage = Damage()
    start, stop, features, draw = [], [], [], []
    for record, story in read_placed(path, damage):
        start.append(record.start)
        stop.append(record.start + len(record.content))
        features.append(sum(1 << FEATURES.index(name) for name in set(story.features)))
        draw.append(draw_of(story.story))
    columns: dict[str, NDArray[np.generic]] = {
        "start": np.array(start, np.int64),
        "stop": np.array(stop, np.int64),
        "features": np.array(features, np.uint8),
        "draw": np.array(draw, np.float64),
    }
    return columns, damage
