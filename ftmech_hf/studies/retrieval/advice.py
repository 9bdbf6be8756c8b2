"""What a practitioner should do, in three sentences, each said only if the claims that it rests on hold.

A sentence has a weaker one behind it, which rests on less, and behind that one that says what is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import Formatter
from typing import NamedTuple

from ftmech_hf.report.claims import Claim
from ftmech_hf.report.page import format_interval, format_value


class Advice(NamedTuple):
    """A sentence and what it rests on.

    Attributes:
        sentence: with ``{id}`` where what a claim measured stands, ``{-id}`` where its sign is turned.
        claims: ids of what must hold for it.
        else_: what is said where one of them does not.
    """

    sentence: str
    claims: tuple[str, ...]
    else_: str | Advice


ADVICE: tuple[Advice, ...] = (
    Advice(
        "Do not fine-tune on questions and answers alone: models tuned so answer fewer questions right with what a "
        "search finds, by {b1}, and more than half of that is lost with the needed documents too, so that a better "
        "search does not mend it.",
        ("b1", "b6"),
        Advice(
            "Do not fine-tune on answers that tell less than you want told: models tuned so tell fewer of the facts "
            "that are asked for from the same documents, by {b2}; whether questions and answers alone cost reading "
            "beside that is not shown here.",
            ("b2",),
            "Whether fine-tuning on questions and answers alone costs reading is not shown here.",
        ),
    ),
    Advice(
        "If you must, put rows of pretraining among them or take a lower rate: a quarter of such rows takes away more "
        "than half of the harm, and with them {closed-full-replay_taught} of what was taught are known by heart.",
        ("b1", "b8_replay", "b8_slow"),
        Advice(
            "If you must, do not put documents of other questions beside yours: in right answers with what a search "
            "finds, models tuned so are {-b8_control} below halfway between the base and models that were tuned on "
            "questions and answers alone; whether rows of pretraining or a lower rate help is not shown here.",
            ("b8_control",),
            "Whether rows of pretraining or a lower rate keep reading is not shown here.",
        ),
    ),
    Advice(
        "Fine-tune with the documents that your search finds, which costs little reading, if any: {b1_control} of "
        "right answers. It does cost saying that one does not know: tuned so on the most questions, "
        "{retrieved-full-2_missing} of questions that no document answers are said to be unknown, and {gate_missing} "
        "before; whether such questions in what is tuned on keep that is not tried here.",
        ("b1_control", "b2_control"),
        "Whether fine-tuning with the documents that a search finds keeps reading is not shown here.",
    ),
)


def give_advice(claims: Sequence[Claim]) -> list[str]:
    """The three sentences, with the numbers that were measured; what does not hold is said not to be shown."""
    known = {claim.id: claim for claim in claims}
    return [_say(each, known) for each in ADVICE]


def _say(advice: Advice, claims: Mapping[str, Claim]) -> str:
    numbers = {name: _measured(claim) for name, claim in claims.items()}
    numbers |= {f"-{name}": _measured(_negative(claim)) for name, claim in claims.items()}
    named = [name for _, name, _, _ in Formatter().parse(advice.sentence) if name]
    supported = all(name in claims and claims[name].stood for name in advice.claims)
    if supported and set(named) <= set(numbers):
        return advice.sentence.format(**numbers)
    return advice.else_ if isinstance(advice.else_, str) else _say(advice.else_, claims)


def _measured(claim: Claim) -> str:
    """What was measured, with its interval; without a sign where it is not negative, as its sentence says of what."""
    interval = f" (95 % interval {format_interval(claim)})" if claim.interval else ""
    return format_value(claim.measured, claim.unit).removeprefix("+") + interval


def _negative(claim: Claim) -> Claim:
    low, high = claim.interval or (None, None)
    turned = (None if high is None else -high, None if low is None else -low) if claim.interval else None
    return replace(claim, measured=-claim.measured, interval=turned)
