"""What the models know, what they are taught, and in which order."""

from __future__ import annotations

from typing import NamedTuple

from ftmech_hf.tasks import Capability
from ftmech_hf.tasks.schema import NO_OPERAND

NEVER_TUNED = (Capability("count", "a"), Capability("index", "a"), Capability("token_at", NO_OPERAND))
"""What the base knows and no task is about: what is lost of it is concept loss."""

TUNED = tuple(Capability(operator, operand) for operand in ("b", "c") for operator in ("count", "index"))
"""What the base is asked in one row of a hundred and does not know."""

CAPABILITIES = (*NEVER_TUNED, *TUNED)


class Sequence(NamedTuple):
    """Tasks in their order.

    Attributes:
        tasks: what each is about.
        correlation: of the texts of every task; a planted one is a shortcut, see :class:`ftmech_hf.tasks.PcfgConfig`.
        says: what it is for.
    """

    tasks: tuple[Capability, ...]
    correlation: float | None
    says: str


SEQUENCES: dict[str, Sequence] = {
    "s1": Sequence(TUNED, None, "count b, index b, count c, index c"),
    "s2": Sequence(TUNED[::-1], None, "the same backwards"),
    "s3": Sequence(TUNED, 1.0, "as the first, on texts in which a shortcut through the answer for a always holds"),
}
