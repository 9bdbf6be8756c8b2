"""Rows that cannot be asked: refused in one line that says where and how many, or left out and counted."""

from __future__ import annotations

from collections.abc import Sequence


class Faults:
    """What is wrong with rows of a table.

    Args:
        name: what errors call the table.
        skip: leave such rows out, in place of an error.
        flag: the setting that would do so, for errors; empty if there is none.
    """

    def __init__(self, name: str, *, skip: bool = False, flag: str = "") -> None:
        self.name, self.skip, self.flag = name, skip, flag
        self._told: list[str] = []

    def kept(self, tells: Sequence[str | None], advice: str = "") -> list[int]:
        """The numbers of the rows of which nothing is to be told.

        Args:
            tells: of each row, what is wrong with it and where it stands; None if nothing is.
            advice: what to do about it, where no setting leaves such rows out.

        Raises:
            ValueError: something is, and such rows are not to be left out.
        """
        wrong = [tell for tell in tells if tell]
        if wrong and not self.skip:
            advice = f"; --{self.flag} true leaves such rows out" if self.flag else advice
            raise ValueError(
                f"dataset: {self.name}: {wrong[0]} ({len(wrong)} of {len(tells)} rows are like that){advice}"
            )
        self._told += wrong
        return [number for number, tell in enumerate(tells) if not tell]

    def note(self, total: int) -> str | None:
        """What is to be said of the rows that were left out, of so many; None if none was."""
        if not self._told:
            return None
        return f"{len(self._told)} of {total} rows cannot be asked and are left out, first {self._told[0]}"
