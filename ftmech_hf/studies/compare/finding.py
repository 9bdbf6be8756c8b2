"""One finding of a comparison: its score, and the highest that null models give by chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["outputs", "places", "tokens", "texts", "completions", "amplified", "shift", "components"]

MARGIN = 3.0
"""How many times the highest score of the null models a finding must have to stand out. Set on development pairs."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing in which the fine-tuned model differs from its base.

    Attributes:
        kind: what was looked at.
        what: is different, in words.
        score: how much; what it is a number of stands in :data:`SCORES`.
        null_score: the highest score that anything of this kind has in a null model, behind the same block or at the
            same strength where it has one.
        where: it is, in words; empty if that says nothing.
    """

    kind: Kind
    what: str
    score: float
    null_score: float
    where: str = ""

    @property
    def ratio(self) -> float:
        """How many times the null models' highest score it has."""
        return self.score / max(self.null_score, 1e-9)

    @property
    def stands_out(self) -> bool:
        """Whether the null models show nothing like it."""
        return self.score > 0 and self.ratio > MARGIN

    def row(self) -> dict[str, Any]:
        """As a table or ``report.json`` has it."""
        return {
            "kind": self.kind, "what": self.what, "score": self.score, "null_score": self.null_score,
            "where": self.where, "stands_out": self.stands_out,
        }  # fmt: skip


FIRST_OF_A_KIND = 3
"""Findings of one kind before the rest of it comes after those of all kinds: ten texts say little more than three."""


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Those that stand out most first, but no more than :data:`FIRST_OF_A_KIND` of a kind before the other kinds'."""
    first, later = list[Finding](), list[Finding]()
    for each in sorted(findings, key=lambda each: -each.ratio):
        seen = sum(other.kind == each.kind for other in first)
        (first if seen < FIRST_OF_A_KIND else later).append(each)
    return first + later


LESS_LIKELY = "less likely than before"
"""Where a token lost probability: said in place of where it gained."""

SCORES: Mapping[Kind, str] = {
    "outputs": "KL per token, nats",
    "places": "KL there, nats, nearer end of its interval",
    "tokens": "probability gained or lost per token of text, of tokens that gain or lose most",
    "texts": "KL per token of this text, nats",
    "completions": "nats per token (of at least 8) by which the model finds its own text likelier than the base does",
    "amplified": "the same of texts written with what it learned since the base made stronger",
    "shift": "what is the same in all texts of the stream's difference, over what is not",
    "components": "variance of the stream's difference along this component, over the mean square of the base's stream",
}
"""What the score of each kind is."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """How tokens are said.

    Attributes:
        token: the word of an id.
        text: of ids.
    """

    token: Callable[[int], str]
    text: Callable[[Sequence[int]], str]
