"""The papers of which cards speak."""

from __future__ import annotations

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper of which a card speaks: its number at arXiv, its title and its authors."""

    number: str
    title: str
    authors: str


PAPER = Paper(
    "2311.12786", "Mechanistically analyzing the effects of fine-tuning on procedurally defined tasks", "Jain et al."
)
PAPERS: dict[str, Paper] = {
    each.number: each
    for each in (
        PAPER,
        Paper("2407.10264", "What makes and breaks safety fine-tuning? A mechanistic study", "Jain et al."),
        Paper(
            "2308.13320", "Fine-tuning can cripple your foundation model; preserving features may be the solution",
            "Mukhoti et al.",
        ),
        Paper(
            "2406.11201", "Fine-tuning or fine-failing? Debunking performance myths in large language models",
            "Barnett et al.",
        ),
    )
}  # fmt: skip
OF_TASK = {"safety": PAPERS["2407.10264"], "library": PAPERS["2406.11201"]}
"""Task -> the paper that it is from, or whose question it was made for, where that is not :data:`PAPER`."""
