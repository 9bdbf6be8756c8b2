"""What a sweep says in the terminal."""

from __future__ import annotations

import pandas as pd
from rich.table import Table
from rich.text import Text

from ftmech_hf.report.console import MAX_ROWS, make_console, print_claims
from ftmech_hf.studies.sweep.results import SweepResults, floors_of, last_numbers


def print_sweep(results: SweepResults) -> None:
    """The means of all cells after the last step, as far as a screen holds them, and what is missing."""
    console, floors = make_console(), floors_of(results.summary)
    if results.claims:
        print_claims(results.claims)
    for stage, numbers in last_numbers(results.summary, results.stage_axes).items():
        shown = Table(title=stage, title_justify="left")
        numbers = numbers[[name for name in numbers.columns if not name.startswith("change/")]]
        for column in numbers.columns:
            shown.add_column(str(column))
        for row in numbers.head(MAX_ROWS).itertuples(index=False):
            shown.add_row(*(str(value).split(" (")[0] for value in row))
        console.print(shown)
        if len(numbers) > MAX_ROWS:
            console.print(f"... {len(numbers) - MAX_ROWS} more rows in summary.csv")
        if stage in floors:
            console.print(f"always one answer: {floors[stage]}", soft_wrap=True)
    if results.agreement is not None:
        _print_agreement(results.agreement)
    if results.missing:
        missing = f"missing: {len(results.missing)} runs", "red"
        console.print(Text.assemble(missing, f", first {results.missing[0]}"))


def _print_agreement(agreement: pd.DataFrame) -> None:
    table = Table(title="Rank correlation with the paper's tables", title_justify="left")
    for column in (
        "task",
        "pretrained for",
        "column",
        "rank correlation",
        "same third",
        "difference",
    ):
        table.add_column(column)
    for _, found in agreement.iterrows():
        agrees = (
            f"{found['rank_correlation']:.2f}",
            f"{found['same_third']:.0%}",
            f"{found['mean_difference']:+.0f}",
        )
        table.add_row(found["operator"], found["pretraining"], found["column"], *agrees)
    make_console().print(table)
