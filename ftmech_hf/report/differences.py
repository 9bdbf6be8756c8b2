"""Where a study differs from the paper that it repeats: what the paper says, what the runs have, and why.

What the runs have is read from their settings, and a row whose two sides read the same is left out. So nobody has to
remember to say a difference, and one that is gone goes from the page by itself. What the paper does not say is a
difference, too: our reading of it stands there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftmech_hf.runs import FinishedRun, write_json

Part = Literal["data", "model", "pretraining", "fine-tuning", "reversing", "measuring"]
"""What a difference is of."""

NOT_SAID = "not said"
"""What stands for the paper where it leaves something open."""

NOT_READ = "could not be read"
"""What stands for a paper where neither its text nor its code, as far as we had them, says it."""

FILE = "differences.json"

PARTS_OF_KIND: dict[str, tuple[Part, ...]] = {
    "pretrain": ("data", "model", "pretraining"),
    "finetune": ("data", "model", "pretraining", "fine-tuning"),
    "reverse_finetune": ("data", "model", "pretraining", "fine-tuning", "reversing"),
}
"""Kind of a run -> the parts that made its model what it is."""


class OneOf(tuple[Any, ...]):
    """Values of which a paper uses now one, now another: whoever has some of them does as the paper."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that a paper says, beside what is done here.

    Attributes:
        part: what it is of.
        what: is compared.
        paper: the paper's value; :class:`OneOf` of several, or :data:`NOT_SAID`.
        where: in the paper.
        here: the value of the runs, read from their settings; a set of several.
        why: it is another.
    """

    part: Part
    what: str
    paper: Any
    where: str
    here: Any
    why: str

    @property
    def differs(self) -> bool:
        """Whether a reader sees two different things; what the paper does not say differs from all that is done."""
        if isinstance(self.paper, OneOf):
            return not _texts(self.here) <= _texts(self.paper)
        return as_text(self.paper) != as_text(self.here)

    def row(self) -> dict[str, str]:
        """As text, for tables and files."""
        shown = {name: as_text(getattr(self, name)) for name in ("paper", "here")}
        return {"part": self.part, "what": self.what, **shown, "where": self.where, "why": self.why}


def _texts(values: Any) -> set[str]:
    return (
        {as_text(each) for each in values} if isinstance(values, set | frozenset | tuple | list) else {as_text(values)}
    )


def as_text(value: Any) -> str:
    """A value as it is printed on both sides, so that equal ones read equal."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, OneOf):
        return " or ".join(as_text(each) for each in value)
    if isinstance(value, set | frozenset):
        return ", ".join(as_text(each) for each in sorted(value, key=lambda each: (str(type(each)), each)))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(as_text(each) for each in value)
    return str(value)


def differing(rows: Iterable[Difference]) -> list[dict[str, str]]:
    """The rows that differ, as text and in their order."""
    return [each.row() for each in rows if each.differs]


def write_differences(folder: Path, rows: Iterable[Difference]) -> list[dict[str, str]]:
    """Write what differs into a folder of results, and return it; of a study that repeats no paper there is nothing."""
    rows = list(rows)
    found = differing(rows)
    if rows:
        write_json(folder / FILE, found)
    return found


def differences_of(results: FinishedRun, kind: str) -> list[Mapping[str, str]]:
    """What the results of a study say of how models of a kind of run were made otherwise than the paper's."""
    if not results.has(FILE):
        return []
    return [row for row in results.read_json(FILE) if row["part"] in PARTS_OF_KIND.get(kind, ())]
