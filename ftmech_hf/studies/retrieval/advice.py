"""What a practitioner should do, in three sentences, each said only if the claims that it rests on hold.

A sentence has a weaker one behind it, which rests on less, and behind that one that says what is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import NamedTuple

from ftmech_hf.report.claims import Claim
from ftmech_hf.report.page import format_value


class Advice(NamedTuple):
    """A sentence and what it rests on.

    Attributes:
        sentence: with ``{id}`` where what a claim measured stands.
        claims: ids of what must hold for it.
        else_: what is said where one of them does not.
    """

    sentence: str
    claims: tuple[str, ...]
    else_: str | Advice


ADVICE: tuple[Advice, ...] = (
    Advice(
        "Do not fine-tune on questions and answers alone: models tuned so answer fewer questions right with what a "
        "search finds ({b1}), and more than half of that is lost with the needed documents too, so that a better "
        "search does not mend it.",
        ("b1", "b6"),
        Advice(
            "Do not fine-tune on answers that tell less than you want told: models tuned so tell fewer of the facts "
            "that are asked for ({b2}) from the same documents; whether questions and answers alone cost reading "
            "beside that is not shown here.",
            ("b2",),
            "Whether fine-tuning on questions and answers alone costs reading is not shown here.",
        ),
    ),
    Advice(
        "If you must, put rows of pretraining among them or take a lower rate: a quarter of such rows takes away more "
        "than half of the harm, and with them {closed-full-replay_taught} of what was taught are known by heart.",
        ("b8_replay", "b8_slow"),
        Advice(
            "If you must, do not put documents of other questions beside yours: that does not take the harm away "
            "({b8_control}); whether rows of pretraining or a lower rate do is not shown here.",
            ("b8_control",),
            "Whether rows of pretraining or a lower rate take the harm away is not shown here.",
        ),
    ),
    Advice(
        "Fine-tune with the documents that your search finds, which costs no reading. It does cost saying that one "
        "does not know: tuned so on the most questions, {retrieved-full-2_missing} of questions that no document "
        "answers are said to be unknown, and {gate_missing} before; whether such questions in what is tuned on keep "
        "that is not tried here.",
        ("b1_control", "b2_control"),
        "Whether fine-tuning with the documents that a search finds keeps reading is not shown here.",
    ),
)


def give_advice(claims: Sequence[Claim]) -> list[str]:
    """The three sentences, with the numbers that were measured; what does not hold is said not to be shown."""
    known = {claim.id: claim for claim in claims}
    return [_say(each, known) for each in ADVICE]


def _say(advice: Advice, claims: Mapping[str, Claim]) -> str:
    numbers = {name: format_value(claim.measured, claim.unit) for name, claim in claims.items()}
    named = [name for _, name, _, _ in Formatter().parse(advice.sentence) if name]
    supported = all(name in claims and claims[name].stood for name in advice.claims)
    if supported and set(named) <= set(numbers):
        return advice.sentence.format(**numbers)
    return advice.else_ if isinstance(advice.else_, str) else _say(advice.else_, claims)
