"""What a real model's diagnoses found, from the folder of the study: one pair to look at, and all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ftmech_hf.runs import FinishedRun, describe_versions
from ftmech_hf.studies.real.pair import PAIRS
from ftmech_hf.studies.real.results import say_right
from recipes.readme.tables import markdown_table

MARKS = {True: "\u2713", False: "\u2717"}
"""Right and wrong, as verdicts of pages are marked."""


def real_block(folder: Path) -> str:
    """The example of a real model, as Markdown: what was asked, what is answered, the verdict and what it rests on."""
    run, example = FinishedRun(folder), folder / "example.json"
    if not example.is_file():  # no hidden pair whose verdict is right
        return ""
    pair = json.loads(example.read_text(encoding="utf-8"))
    rows = [
        (_in_a_cell(each["question"], end=True), _in_a_cell(each["right"]), _in_a_cell(each["base"]),
         _in_a_cell(each["finetuned"]), _in_a_cell(each["reversed"] or ""))
        for each in pair["examples"][:3]
    ]  # fmt: skip
    shown = ", and ".join(
        f"*{sign['name']}* ({sign['measured']}; random weights, as no control was given: {sign['control']})"
        for sign in pair["signs"] if sign["holds"]
    )  # fmt: skip
    columns = ("the end of a question", "right", "SmolLM2", "tuned", "trained back")
    source = (
        f"The verdict: **{pair['verdict']}**. {pair['reason'][0].upper()}{pair['reason'][1:]}. What shows: {shown}. "
        f"Seed {run.config['seeds'][0]}; config hash `{run.env['hash']}`; {describe_versions(run.env)}."
    )
    return markdown_table(columns, rows, source)


def real_pairs_block(folder: Path) -> str:
    """All pairs of a real model, as Markdown: what each is, what was said of it and why, and what that took."""
    run, pairs = FinishedRun(folder), pd.read_parquet(folder / "table.parquet")
    rows = [
        (f"`{pair['pair']}`", pair["expected"], f"{MARKS[pair['right']]} {pair['verdict']}", pair["reason"],
         f"{pair['cpu_minutes'] / 2:.1f}", f"{pair['peak_gb']:.1f}")
        for pair in pairs.to_dict("records")
    ]  # fmt: skip
    missing = [f"`{name}`" for name in PAIRS if name not in set(pairs["pair"])]
    rest = f"; {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not diagnosed yet" if missing else ""
    source = (
        f"{say_right(pairs.to_dict('records'))}{rest}. Minutes are the processor's by two, as on two "
        f"cores; tuning took {pairs['tuning_minutes'].sum() / 2:.0f} of them in all, the diagnoses "
        f"{pairs['cpu_minutes'].sum() / 2:.0f}. Seed {run.config['seeds'][0]}; config hash "
        f"`{run.env['hash']}`; {describe_versions(run.env)}."
    )
    return markdown_table(("pair", "the truth", "verdict", "why", "minutes", "GB"), rows, source)


def _in_a_cell(text: str, letters: int = 40, *, end: bool = False) -> str:
    """The beginning of a text, or its end, on one line, as code."""
    line = text.strip().replace("\n", " \u23ce ").replace("`", "'")
    if len(line) > letters:
        line = "\u2026" + line[-letters:] if end else line[:letters].rstrip() + "\u2026"
    escaped = line.replace("|", "\\|")  # a bar would end the cell
    return f"`{escaped}`" if line else "\u2014"
