"""What the READMEs of the studies say was found: how far each study is, and which statements of the papers hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ftmech_hf.jobs.study import StudyFacts
from ftmech_hf.report.claims import UNMEASURED
from ftmech_hf.studies import STUDIES, load_study
from recipes.readme.headlines import HEADLINES, Headline, headlines_table
from recipes.readme.tables import markdown_table

Row = Mapping[str, str]

OWN = ("not reported", UNMEASURED, "not done")
"""What stands in the column of the paper where a claim is ours, or a control."""
VERDICTS = ("holds", "fails", "undecided")
"""Verdicts with a column of their own; all others are not told."""
OPEN, NOT_TOLD = "control undecided", "not told"


def read_claims_tables(text: str) -> list[Row]:
    """The rows of all tables of claims in a README: name of a column -> its cell."""
    return list(_rows(text))


def _rows(text: str) -> Iterator[Row]:
    columns: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("| claim | paper |"):
            columns = cells
        elif columns and line.startswith("| "):
            yield dict(zip(columns, cells, strict=True))
        elif not line.startswith("|"):
            columns = []


def outcome(row: Row) -> str:
    """Whether a claim holds, fails, is undecided, or is not told (a control failed, or a part was not measured).

    One that holds while a control of its is undecided does not count as one: what it says may have been found
    where it must not be, the more easily the fewer seeds there are.
    """
    words = re.findall(r"\w+", re.sub(r"\*[^*]*\*", "", row["verdict"]))  # without what its controls state
    if words[:1] == ["holds"] and "undecided" in words:
        return OPEN
    return words[0] if words[:1] and words[0] in VERDICTS else NOT_TOLD


class StudyReadme(NamedTuple):
    """What a study declares, and what its README has.

    Attributes:
        study: its facts.
        path: of the README, from the root of the repository.
        title: of the README, up to a colon.
        paper: with links.
        text: of the README.
        claims: rows of its tables of claims.
    """

    study: StudyFacts
    path: Path
    title: str
    paper: str
    text: str
    claims: list[Row]


def read_studies(root: Path) -> Iterator[StudyReadme]:
    """Every study with its README, in the order in which they are listed."""
    for name, package in STUDIES.items():
        study, path = load_study(name), Path(*package.split("."), "README.md")
        text = (root / path).read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# ").partition(":")[0]
        paper = re.sub(r"arXiv (\d+\.\d+)", r"[arXiv \1](https://arxiv.org/abs/\1)", study.paper)
        yield StudyReadme(study, path, title, paper, text, read_claims_tables(text))


def _status(found: StudyReadme) -> str:
    """How many of a study's claims hold; or how many tables it has."""
    if found.claims:
        told = Counter(map(outcome, found.claims))
        left = f", {told['undecided']} undecided" if told["undecided"] else ""
        left += f", {told[OPEN]} with a control undecided" if told[OPEN] else ""
        return f"{told['holds']} of {len(found.claims)} claims hold{left}"
    tables = len(re.findall(r"^<!-- end of (?!differences)", found.text, re.MULTILINE))
    return f"{tables} table{'s' * (tables > 1)}, no claims" if tables else "for any two models, no claims"


def studies_block(root: Path) -> str:
    """Every study: its question, its paper, its time and how far it is, as Markdown."""
    rows = [
        (f"[{each.title}]({each.path.as_posix()})", each.study.question, each.paper, each.study.duration, _status(each))
        for each in read_studies(root)
    ]
    return markdown_table(("study", "question", "paper", "time on two cores", "status"), rows)


def found_block(root: Path, headlines: Sequence[Headline] = HEADLINES) -> str:
    """The headlines; of every study how many statements of its paper hold, and claims of our own; each statement."""
    columns = [*VERDICTS, OPEN, NOT_TOLD]
    counts, statements = [], []
    told_of: dict[str, dict[str, str]] = {}
    for each in read_studies(root):
        if not each.claims:
            continue
        folder = each.path.parent.name
        told_of[folder] = {claim["claim"]: outcome(claim) for claim in each.claims}
        theirs = [claim for claim in each.claims if claim["paper"] not in OWN]
        ours = [claim for claim in each.claims if claim["paper"] in OWN]
        told, own = (Counter(map(outcome, claims)) for claims in (theirs, ours))
        numbers = (f"{told[column]} and {own[column]}" for column in columns)
        counts.append((f"[{each.title}]({folder}/README.md)", each.paper, *numbers))
        statements += [
            (folder, claim["claim"], claim["paper"], claim["measured"], claim["95 % interval"], claim["verdict"])
            for claim in theirs  # in their order: some say what the one before them is about
        ]
    head = ("study", "paper", *(f"{column}: theirs and ours" for column in columns))
    heads = ("study", "statement", "the paper", "here", "95 % interval", "verdict")
    return "\n\n".join(
        (headlines_table(told_of, headlines), markdown_table(head, counts), markdown_table(heads, statements))
    )
