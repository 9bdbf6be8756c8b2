"""What a real model's diagnoses found, from the folder of the study: one pair to look at, and all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ftmech_hf.runs import FinishedRun, describe_versions
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
        (_in_a_cell(each["question"]), _in_a_cell(each["right"]), _in_a_cell(each["base"]),
         _in_a_cell(each["finetuned"]), _in_a_cell(each["reversed"] or ""))
        for each in pair["examples"][:3]
    ]  # fmt: skip
    shown = ", and ".join(f"*{sign['name']}* ({sign['measured']}; its control {sign['control']})"
                          for sign in pair["signs"] if sign["holds"])  # fmt: skip
    columns = ("the end of a question", "right", "SmolLM2", "tuned", "trained back")
    source = (
        f"The verdict: **{pair['verdict']}**. {pair['reason'][0].upper()}{pair['reason'][1:]}. What shows: {shown}. "
        f"Config hash `{run.env['hash']}`; {describe_versions(run.env)}."
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
    source = (
        f"{int(pairs['right'].sum())} of {len(pairs)} are right. Minutes are the processor's by two, as on two cores; "
        f"tuning took {pairs['tuning_minutes'].sum() / 2:.0f} of them in all, the diagnoses "
        f"{pairs['cpu_minutes'].sum() / 2:.0f}. Config hash "
        f"`{run.env['hash']}`; {describe_versions(run.env)}."
    )
    return markdown_table(("pair", "the truth", "verdict", "why", "minutes", "GB"), rows, source)


def _in_a_cell(text: str, letters: int = 40) -> str:
    """The end of a text on one line, as code."""
    line = text.strip().replace("\n", " \u23ce ").replace("|", "\\|").replace("`", "'")
    shown = line if len(line) <= letters else f"\u2026{line[-letters:]}"
    return f"`{shown}`" if line else "\u2014"
