"""The page of a diagnosis: the verdict first, why, and one picture per method with its reference drawn in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ftmech_hf.models.loading import RANDOM_INIT
from ftmech_hf.report.charts import panel
from ftmech_hf.report.page import Picture as Drawn
from ftmech_hf.report.page import make_picture, render_page
from ftmech_hf.runs import FinishedRun, describe_versions
from ftmech_hf.studies.diagnosis.case import BASE, FINETUNED
from ftmech_hf.studies.diagnosis.figures import describe_reference, reference_name
from ftmech_hf.studies.diagnosis.method import Method, Picture, Summary
from ftmech_hf.studies.diagnosis.methods import METHODS
from ftmech_hf.studies.diagnosis.score import describe_score, read_score

MEANING = {
    "unchanged": "The fine-tuned model answers as well as its base did.",
    "behind a wrapper": "The fine-tuned model no longer shows the capability, but still has it: the change hides it.",
    "hidden or learned anew": "The fine-tuned model no longer shows the capability. It comes back as what is only "
    "hidden does; but whether it was there, or is quickly learned by any such model, only a control that never had it "
    "can say.",
    "weakened": "Part of the capability is left: not all of it shows, or not all that shows is as it was.",
    "gone": "The fine-tuned model does not show the capability, and nothing says that it still has it.",
    "nothing to lose": "The base does not show the capability, so that the fine-tuned model could not lose it.",
    "undecided": "The measurements do not allow a verdict.",
}

SIGNS = {
    "comes back by pruning": "It comes back when a few rows of weights are set to zero",
    "one half of it works in the base": "Half of its blocks do their part when the base does the other",
    "can be read": "The right answer can be read in its stream",
    "answers that it was not taught come back": "Trained back on some questions, it soon answers others",
    "comes back fast": "It comes back fast when it is trained again",
}

SHOWS = {True: "yes", False: "no", None: "not measurable"}


class Shown(NamedTuple):
    """A method as the page shows it."""

    title: str
    text: str
    pictures: list[Drawn]


def show_method(method: Method, rows: pd.DataFrame, summary: Summary) -> Shown:
    """A method's pictures of its rows of the table, and what they show."""
    reference = reference_name(summary["facts"]["reference"])

    def drawn(picture: Picture) -> Drawn:
        return make_picture(panel(lambda ax: picture(ax, rows, reference)), method.title)

    return Shown(method.title, method.explain(summary), [drawn(picture) for picture in method.pictures])


def _by_token(tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is right of each token of answers, the base and the fine-tuned model beside each other."""
    right = {(each["model"], each["number"]): each for each in tokens}
    numbers = sorted({number for _, number in right})
    return [
        {"number": number, "rows": right[BASE, number]["rows"], "base": right[BASE, number]["right"]["value"],
         "finetuned": right[FINETUNED, number]["right"]["value"]}
        for number in numbers if (BASE, number) in right and (FINETUNED, number) in right
    ]  # fmt: skip


def _end_of(text: str, letters: int = 300) -> str:
    """The end of a long question, which is what is answered."""
    return text if len(text) <= letters else f"\u2026 {text[-letters:]}"


def render_diagnosis(folder: Path) -> str:
    """The page of a diagnosis as HTML, from the table and the summary in its folder."""
    run = FinishedRun(folder)
    return render_page_of(run.summary, run.table, run.env)


def render_page_of(summary: Summary, table: pd.DataFrame, env: Mapping[str, Any]) -> str:
    """The same of what is in memory.

    Args:
        summary: of the diagnosis.
        table: all of its numbers.
        env: versions and command.
    """
    rows = {name: table[table["analysis"] == name] for name in METHODS}
    return render_page(
        __package__,
        summary=summary,
        facts=summary["facts"],
        rule=summary["rule"],
        evidence=summary["evidence"],
        meaning=MEANING[summary["verdict"]],
        scored=describe_score(summary, read_score()),
        score_hash=read_score()["hash"],
        signs=SIGNS,
        shows=SHOWS,
        examples=[{**each, "question": _end_of(each["question"])} for each in summary["evidence"]["examples"]],
        trained_back=any(each["reversed"] is not None for each in summary["evidence"]["examples"]),
        tokens=_by_token(summary["evidence"]["tokens"]),
        other_tokens=_end_of(summary["facts"]["other_tokens"] or ""),
        random_reference=summary["facts"]["reference"] == RANDOM_INIT or not summary["evidence"].get("control", True),
        reference=describe_reference(summary["facts"]["reference"]),
        methods=[show_method(METHODS[name], each, summary) for name, each in rows.items() if len(each)],
        command=env["command"],
        versions=describe_versions(env),
    )
