"""The table of instruments on small compiled programs, from the folder that their score leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.runs import FinishedRun, describe_versions
from recipes.readme.tables import markdown_table


def scores_block(folder: Path) -> str:
    """Precision and recall of each instrument, median and worst over programs and draws, as Markdown."""
    found = FinishedRun(folder)
    rows = [
        (row["instrument"], f"{row['noise']:g}", *(_median_and_worst(row, name) for name in ("precision", "recall")),
         f"{_least_to_most(row['perfect'])} of {row['programs']}",
         f"{row['chance_median']:.2f} ({row['chance_max']:.2f})", f"{row['accuracy_min']:.0%}",
         f"{row['rank_median']:.2f} ({row['rank_min']:.2f})",
         f"{row['seconds']:.1f} ({row['of_exact']:.2f})")
        for row in found.summary["scores"]
    ]  # fmt: skip
    columns = ("instrument", "noise", "precision, median (worst)", "recall, median (worst)", "both 1",
               "chance, median (most)", "answers as without noise, least",
               "ranks as patching's, median (worst)", "CPU seconds (of patching's)")  # fmt: skip
    return markdown_table(columns, rows, f"Over programs and {_draws(found)}. {_source(found)}")


def _draws(found: FinishedRun) -> str:
    draws = found.config["draws"]
    return f"{draws} draws of texts and noise" if draws > 1 else "one draw of texts and noise"


def _least_to_most(both: tuple[int, int]) -> str:
    least, most = both
    return str(least) if least == most else f"{least} to {most}"


def _median_and_worst(row: Mapping[str, Any], name: str) -> str:
    return f"{row[f'{name}_median']:.2f} ({row[f'{name}_min']:.2f})"


def directions_block(folder: Path) -> str:
    """What the search for directions found of each variable, mean and worst over draws, beside its controls."""
    found = FinishedRun(folder)
    controls = ("random", "random_model", "shuffled", "alone")
    rows = []
    where = ["program", "variable", "site", "layer", "position", "rank"]
    for (program, variable, site, layer, position, rank), each in pd.DataFrame(found.summary["directions"]).groupby(
        where, sort=False
    ):
        rows.append((
            f"`{program}`", f"`{variable}`", f"{site} {layer}, {position}", str(rank), str(len(each)),
            _share_and_worst(each["found"], min), *(_share_and_worst(each[name], max) for name in controls),
            f"{each['cosine'].mean():.3f} ({each['cosine'].min():.3f})",
        ))  # fmt: skip
    columns = ("program", "variable", "place, position", "rank", "draws", "found, mean (least)",
               "random directions, mean (most)", "random weights", "shuffled answers", "no exchange",
               "least cosine to the known ones, mean (least)")  # fmt: skip
    return markdown_table(columns, rows, f"Shares of held-out answers as the program gives them. {_source(found)}")


def _share_and_worst(values: pd.Series, worst: Callable[[pd.Series], float]) -> str:
    return f"{values.mean():.0%} ({worst(values):.0%})"


def _source(found: FinishedRun) -> str:
    return f"Seed {found.config['seed']}; config hash `{found.env['hash']}`; {describe_versions(found.env)}."
