"""The table of instruments on small compiled programs, from the folder that their score leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftmech_hf.runs import FinishedRun, describe_versions
from recipes.readme.tables import markdown_table


def scores_block(folder: Path) -> str:
    """Precision and recall of each instrument, median and worst over programs, as Markdown."""
    found = FinishedRun(folder)
    rows = [
        (row["instrument"], f"{row['noise']:g}", *(_median_and_worst(row, name) for name in ("precision", "recall")),
         f"{row['perfect']} of {row['programs']}", f"{row['chance_median']:.2f} ({row['chance_max']:.2f})",
         f"{row['accuracy_min']:.0%}", f"{row['rank_median']:.2f} ({row['rank_min']:.2f})",
         f"{row['seconds']:.1f} ({row['of_exact']:.2f})")
        for row in found.summary["scores"]
    ]  # fmt: skip
    columns = ("instrument", "noise", "precision, median (worst)", "recall, median (worst)", "both 1",
               "chance, median (most)", "answers as without noise, least",
               "ranks as patching's, median (worst)", "CPU seconds (of patching's)")  # fmt: skip
    return markdown_table(columns, rows, f"One draw of the noise. {_source(found)}")


def _median_and_worst(row: Mapping[str, Any], name: str) -> str:
    return f"{row[f'{name}_median']:.2f} ({row[f'{name}_min']:.2f})"


def directions_block(folder: Path) -> str:
    """What the search for directions found of each variable, beside its controls, as Markdown."""
    found = FinishedRun(folder)
    shares = ("found", "random", "random_model", "shuffled", "alone")
    rows = [
        (f"`{row['program']}`", f"`{row['variable']}`", f"{row['site']} {row['layer']}, {row['position']}",
         str(row["rank"]), *(f"{row[name]:.0%}" for name in shares), f"{row['cosine']:.3f}")
        for row in found.summary["directions"]
    ]  # fmt: skip
    columns = ("program", "variable", "place, position", "rank", "found", "random directions", "random weights",
               "shuffled answers", "no exchange", "least cosine to the known ones")  # fmt: skip
    return markdown_table(columns, rows, f"Shares of held-out answers as the program gives them. {_source(found)}")


def _source(found: FinishedRun) -> str:
    return f"Seed {found.config['seed']}; config hash `{found.env['hash']}`; {describe_versions(found.env)}."
