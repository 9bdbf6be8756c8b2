"""What a comparison says in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from ftmech_hf.report.console import make_console
from ftmech_hf.runs import RunDir

SHOWN = 10


def print_comparison(run: RunDir, summary: Mapping[str, Any]) -> None:
    """The answer, the findings that stand out most, and where the page is."""
    console = make_console()
    console.print(summary["answer"])
    table = Table()
    for name in ("kind", "what", "where", "score", "null models", "stands out"):
        table.add_column(name)
    for each in summary["findings"][:SHOWN]:
        score, null = (f"{each[key]:.3g}" for key in ("score", "null_score"))
        table.add_row(each["kind"], each["what"], each["where"], score, null, "yes" if each["stands_out"] else "no")
    console.print(table)
    rate, number = summary["null_rate"], summary["facts"]["null_models"]
    shown = "one says nothing" if rate is None else f"{round(rate * number)} of {number}"
    console.print(f"null models on which anything would stand out: {shown}")
    for each in summary["left_out"]:
        console.print(each)
    console.print(f"report: {run.path / 'report.html'} (hash {run.hash})", soft_wrap=True)
