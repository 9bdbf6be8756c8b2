"""What we found: which statements of the papers stood here, which did not, from the tables of claims in the READMEs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from ftmech_hf.studies import STUDIES, load_study
from recipes.readme.tables import markdown_table

Row = Mapping[str, str]

OWN = ("not reported", "not measured by anyone", "not done")
"""What stands in the column of the paper where a claim is ours, or a control."""
VERDICTS = {"holds": "stood", "fails": "did not", "undecided": "undecided"}
"""Word of a verdict -> its column; all others are not told."""
NOT_TOLD = "not told"


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
    """Whether a claim stood, did not, is undecided, or is not told (a control failed, or a part was not measured)."""
    words = re.findall(r"\w+", row["verdict"])
    return VERDICTS.get(words[0], NOT_TOLD) if words else NOT_TOLD


def found_block(root: Path) -> str:
    """Of every study, how many statements of its paper stood and how many claims of our own, then each statement."""
    columns = [*VERDICTS.values(), NOT_TOLD]
    counts, statements = [], []
    for name, package in STUDIES.items():
        folder = package.rpartition(".")[2]
        text = (root / package.replace(".", "/") / "README.md").read_text(encoding="utf-8")
        claims = read_claims_tables(text)
        if not claims:
            continue
        title = text.partition("\n")[0].removeprefix("# ").partition(":")[0]
        link = f"[{title}]({folder}/README.md)"
        theirs = [claim for claim in claims if claim["paper"] not in OWN]
        told, own = (
            Counter(map(outcome, each)) for each in (theirs, [claim for claim in claims if claim not in theirs])
        )
        paper = re.sub(r"arXiv (\d+\.\d+)", r"[arXiv \1](https://arxiv.org/abs/\1)", load_study(name).paper)
        counts.append((link, paper, *(f"{told[each]} and {own[each]}" for each in columns)))
        statements += [
            (folder, claim["claim"], claim["paper"], claim["measured"], claim["95 % interval"], claim["verdict"])
            for claim in theirs  # in their order: some say what the one before them is about
        ]
    head = ("study", "paper", *(f"{each}: theirs and ours" for each in columns))
    heads = ("study", "statement", "the paper", "here", "95 % interval", "verdict")
    return f"{markdown_table(head, counts)}\n\n{markdown_table(heads, statements)}"
