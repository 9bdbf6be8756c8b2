"""What the models know, what they are taught, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ftmech_hf.config import to_dict
from ftmech_hf.tasks import Capability, PcfgConfig, PcfgShape
from ftmech_hf.tasks.schema import NO_OPERAND

NEVER_TUNED = (Capability("count", "a"), Capability("index", "a"), Capability("token_at", NO_OPERAND))
"""What the base knows and no task is about: what is lost of it is concept loss."""

TUNED = tuple(Capability(operator, operand) for operand in ("b", "c") for operator in ("count", "index"))
"""What the base is asked in two rows of a hundred and does not know."""

CAPABILITIES = (*NEVER_TUNED, *TUNED)

PLANTED_LABELS = 4
"""Answers that texts with a shortcut need at least, where a shape asks for more: of ``index_c`` no more occur often
enough with the shortcut and without, at any offset, so that naming one of them is right in a quarter of its rows."""

OTHER_WEIGHTS = 10_000
"""Between the seed of a base and that of random weights: the weights that a base began with would be near to it."""


def name_of(capability: Capability, correlation: float | None) -> str:
    """What a capability is called that is asked about on texts with that shortcut, or on texts as they come."""
    return str(capability) if correlation is None else f"{capability}_cte{correlation:g}"


def planted_shape(shape: PcfgShape, capability: Capability) -> PcfgShape:
    """The texts that a task with a shortcut is about."""
    labels = min(shape.min_labels, PLANTED_LABELS)
    return replace(shape, correlated_operand=capability.operand, min_labels=labels)


def asking(shape: PcfgShape, capability: Capability, correlation: float | None) -> PcfgConfig:
    """Rows about one capability. On untouched text another operator is named and never asked.

    Test sets are then those of several operators, on untouched text; those of a single one have shortcuts planted, for
    which many texts must be drawn.
    """
    prior = [str(float(symbol == capability.operand)) for symbol in shape.symbols]
    if correlation is not None:
        return PcfgConfig(
            **to_dict(shape), operators=[capability.operator], operand_prior=prior, correlation=correlation
        )
    other = "index" if capability.operator == "count" else "count"
    return PcfgConfig(
        **to_dict(shape), operators=[capability.operator, other], operator_prior=[1.0, 0.0], operand_prior=prior
    )


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

    @property
    def names(self) -> list[str]:
        """What each task is called where its own texts are asked about."""
        return [name_of(each, self.correlation) for each in self.tasks]


SEQUENCES: dict[str, Sequence] = {
    "s1": Sequence(TUNED, None, "count b, index b, count c, index c"),
    "s2": Sequence(TUNED[::-1], None, "the same backwards"),
    "s3": Sequence(TUNED, 1.0, "as the first, on texts in which a shortcut through the answer for a always holds"),
}
