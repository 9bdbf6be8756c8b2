"""Which records of raw files a split draws, and in which order."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ftmech_hf.config import tell
from ftmech_hf.tasks.epochs import shuffled
from ftmech_hf.tasks.stories.index import KEPT_BACK, StoryIndex, index_files
from ftmech_hf.tasks.stories.records import Story

MANY_LOST = 0.1
"""Share of the records above which it is said that they could not be used."""


class StoryRecords:
    """The records of raw files that tell a story of one kind.

    Args:
        files: see :func:`ftmech_hf.tasks.stories.sources.find_sources`.
        only: a feature that all stories must have.
        without: a feature that none may have.
        own_records: pretraining, fine-tuning and reversing share no record.
    """

    def __init__(
        self, files: Sequence[str], *, only: str | None = None, without: str | None = None, own_records: bool = False
    ) -> None:
        self.files, self.only, self.without, self.own_records = list(files), only, without, own_records
        self._usable: dict[str, NDArray[np.int64]] = {}

    @functools.cached_property
    def index(self) -> StoryIndex:
        """All records, of whatever kind, looked up once.

        Raises:
            ValueError: a file that is not there, cannot be read, or holds no usable record.
        """
        index = index_files(self.files)
        if index.lost > MANY_LOST * (len(index) + index.lost):
            tell(f"files: {index.damage}")
        return index

    def draw(self, seed: int, split: str, number: int) -> Story:
        """The ``number``-th story of a split.

        All of a split's stories come before one comes again; they then come in another order.

        Raises:
            ValueError: the split has no such story.
        """
        usable = self.usable(split)
        epoch, place = divmod(number, len(usable))
        return self.index.read(int(usable[shuffled(len(usable), seed, split, epoch)[place]]))

    def usable(self, split: str) -> NDArray[np.int64]:
        """Numbers of the records that a split may draw, found once.

        Raises:
            ValueError: there are none.
        """
        if split not in self._usable:
            self._usable[split] = self._find_usable(split)
        return self._usable[split]

    def _find_usable(self, split: str) -> NDArray[np.int64]:
        index = self.index
        usable = index.of_split(split, own_records=self.own_records)
        if not usable.any():
            share = f"the {split} split, which has {KEPT_BACK[split]:.0%} of them, " if split in KEPT_BACK else "it"
            raise ValueError(f"files: {len(index)} records, none of them in {share}; expected more ({index.damage})")
        if self.only is not None:
            usable &= index.having(self.only)
        if self.without is not None:
            usable &= ~index.having(self.without)
        if not usable.any():
            asked = {"only": self.only, "without": self.without}
            wanted = ", ".join(f"{name}: {feature}" for name, feature in asked.items() if feature is not None)
            raise ValueError(f"files: no record of the {split} split is left with {wanted} ({index.damage})")
        return np.flatnonzero(usable)
