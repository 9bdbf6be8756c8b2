"""What was found in one screen: statements of the papers, and what is new, each with the claims that it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ftmech_hf.report.claims import SEEN
from recipes.readme.tables import markdown_table

OUTCOMES = {
    "holds": "holds", "control undecided": "control undecided", "fails": "**fails**", "undecided": "undecided",
    "not told": "not told",
}  # fmt: skip
"""What became of a claim -> how it is said; in the order in which they are listed."""

SOURCES = {
    "pcfg": "2311.12786", "tracr": "2311.12786", "tinystories": "2311.12786", "safety": "2407.10264",
    "continual": "2308.13320", "retrieval": "2406.11201", "organisms": "new here", "compare_organisms": "new here",
}  # fmt: skip
"""Folder of a study -> the paper whose statements it tries."""


class Headline(NamedTuple):
    """A statement, and the claims of a study that it is made of.

    Attributes:
        study: its folder.
        statement: in a few words, as it would be if it held.
        claims: the claims' statements in the study's README, or their beginnings; each begins one.
        paper: that says it, if not that of the study.
    """

    study: str
    statement: str
    claims: tuple[str, ...]
    paper: str = ""


HEADLINES = (
    Headline(
        "pcfg",
        "fine-tuning that seems to destroy an ability leaves most of it behind a few neurons",
        (
            "Low prior, fine-tuned with C_Tr = 1: seems to have lost a",
            "Zeroing at most 15 neurons",
            "The same in the control, which never counted a",
        ),
    ),
    Headline(
        "pcfg",
        "what fine-tuning hides can still be read from the stream",
        (
            "Best linear probe for the count of a: fine-tuned model below",
            "Best linear probe for the count of a: fine-tuned model above",
        ),
    ),
    Headline(
        "pcfg",
        "what fine-tuning hides comes back faster than it is learned",
        ("Steps of reverse fine-tuning to 95 % on a",),
    ),
    Headline(
        "pcfg",
        "a base that knows the new task from pretraining does not lose the old one to a shortcut in four of five texts",
        ("High prior, fine-tuned with C_Tr = 0.8: counts b", "High prior, fine-tuned with C_Tr = 0.8: still"),
    ),
    Headline(
        "tinystories",
        "a feature that was deleted from stories, not by filtering alone, comes back sooner than it is learned",
        (
            "A tenth of the way back,",
            f"{SEEN}: the same, of those not filtered alone: gained",
            "Steps until the loss on twists is the base's",
            f"{SEEN}: the same, of those not filtered alone, which lost it",
        ),
    ),
    Headline(
        "tinystories",
        "what was deleted can be read from the stream, above a model that never had it",
        ("Twist read from the stream", "The same: deleted models above the control"),
    ),
    Headline("safety", "safety tuning at a larger rate refuses more unsafe prompts", ("Medium rate refuses more",)),
    Headline(
        "tracr",
        "in a compiled program that was fine-tuned, zeroing one weight brings the old answer back",
        ("counter, C_Tr 1: zeroing one weight",),
    ),
    Headline(
        "safety",
        "supervised safety tuning is more fragile than DPO and unlearning, beyond what attacks teach",
        ("These attacks succeed more often after",),
    ),
    Headline(
        "safety",
        "safety tuning, of three kinds, gives unsafe prompts a cluster of their own",
        (
            "SSFT: prompts of both kinds lie on their own side",
            f"{SEEN}, DPO: prompts on their own side",
            f"{SEEN}, unlearning: prompts on their own side",
        ),
    ),
    Headline(
        "safety",
        "safety tuning, of three kinds, writes into directions that the base does not use",
        (
            "SSFT: more of its change",
            f"{SEEN}, DPO: its change's main directions",
            f"{SEEN}, unlearning: its change's main directions",
        ),
    ),
    Headline(
        "safety",
        "the change of safety tuning, of three kinds, acts on unsafe prompts, hardly on safe ones",
        (
            "SSFT: its change acts on unsafe",
            f"{SEEN}, DPO: its change acts on unsafe",
            f"{SEEN}, unlearning: its change acts on unsafe",
        ),
    ),
    Headline(
        "safety",
        "after supervised safety tuning and unlearning, answers to unsafe prompts depend less on the input",
        ("SSFT: dependence on the input", f"{SEEN}, unlearning: dependence on the input"),
    ),
    Headline(
        "safety",
        "after DPO, answers to unsafe prompts depend less on the input",
        (f"{SEEN}, DPO: dependence on the input",),
    ),
    Headline(
        "safety",
        "going on beyond the weights of supervised safety tuning is safer, at no cost",
        ("SSFT, small rate: 1.5 or 2 times", "There, fewer safe prompts"),
    ),
    Headline("continual", "fine-tuning on other tasks loses what is never tuned", ("Fine-tuning on four tasks loses",)),
    Headline(
        "continual",
        "LDIFS keeps more than L2SP, and learns as well",
        ("LDIFS loses less than L2SP", "LDIFS learns tasks less well, by"),
    ),
    Headline(
        "continual",
        "what answers lose is not lost to probes, by which the paper measures",
        ("Probes at the best layer lose of what is never tuned, where",),
    ),
    Headline(
        "retrieval",
        "a generator tuned without documents answers worse from them",
        ("Tuned without documents (mean of three sizes)",),
    ),
    Headline(
        "retrieval",
        "a generator tuned on full answers, without documents, answers less completely",
        (f"{SEEN}, completeness: tuned on full answers",),
    ),
    Headline("retrieval", "more data does not help a generator", ("More data (three sizes", "More data (same steps)")),
    Headline("organisms", "what a diagnosis calls gone is gone", ("Something is left, and the verdict is gone",)),
    Headline(
        "organisms",
        "the smallest edit that restores finds where, and in how many directions, a change was planted",
        ("Made after looking, of edits that were not so hidden", "The same edits, turned at random"),
    ),
    Headline(
        "organisms",
        "noise on the weights raises the accuracy of what is hidden",
        ("Noise on the weights",),
        "2412.01784",
    ),
    Headline(
        "compare_organisms",
        "two models alone tell where what was planted shows, in at least 11 of 12 pairs",
        ("Where what was planted shows is among",),
    ),
    Headline(
        "compare_organisms", "two models alone tell nothing where nothing was taught", ("Nothing was taught, and",)
    ),
)


def _rest_on(headline: Headline, told: Mapping[str, str]) -> Sequence[str]:
    """What became of each claim that a headline is made of.

    Raises:
        ValueError: a study has no such claim, or two.
    """
    found = []
    for beginning in headline.claims:
        claims = [beginning] if beginning in told else [claim for claim in told if claim.startswith(beginning)]
        if len(claims) != 1:
            raise ValueError(f"{headline.study}: {len(claims)} claims begin with {beginning!r}, expected one")
        found.append(told[claims[0]])
    return found


def _made_after_looking(headline: Headline) -> bool:
    return any(claim.startswith(SEEN) for claim in headline.claims)


def judge_headline(outcomes: Iterable[str]) -> str:
    """A statement holds if all its claims do, and fails if one of them does; else what keeps it open."""
    found = set(outcomes)
    return next((each for each in ("fails", "not told", "undecided", "control undecided") if each in found), "holds")


def headlines_table(told: Mapping[str, Mapping[str, str]], headlines: Sequence[Headline] = HEADLINES) -> str:
    """All headlines, by what became of them, as Markdown.

    Args:
        told: folder of a study -> statement of each of its claims -> what became of it.
        headlines: to list.

    Raises:
        ValueError: see :func:`_rest_on`.
    """
    judged: dict[str, list[tuple[str, str, str]]] = {outcome: [] for outcome in OUTCOMES}
    for each in headlines:
        outcome = judge_headline(_rest_on(each, told.get(each.study, {})))
        link = f"[{each.paper or SOURCES[each.study]}]({each.study}/README.md)"
        seen = " (judged in part by what was set after looking)" if _made_after_looking(each) else ""
        judged[outcome].append((OUTCOMES[outcome], each.statement + seen, link))
    return markdown_table(("", "statement", "of"), [row for rows in judged.values() for row in rows])
