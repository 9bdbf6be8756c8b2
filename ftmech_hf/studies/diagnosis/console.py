"""What a diagnosis says in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ftmech_hf.report.console import make_console
from ftmech_hf.runs import RunDir


def print_diagnosis(run: RunDir, summary: Mapping[str, Any]) -> None:
    """The verdict, the signs it rests on, and where the page is."""
    console = make_console()
    console.print(Text.assemble((summary["verdict"], "bold"), f": {summary['reason']}"))
    table = Table()
    for name in ("is it still there?", "fine-tuned model", "control", "bar", "shows"):
        table.add_column(name)
    for sign in summary["signs"]:
        shown = {True: "yes", False: "no", None: "not measurable"}[sign["holds"]]
        table.add_row(sign["name"], sign["measured"], sign["control"], sign["bar"], shown)
    if summary["signs"]:
        console.print(table)
    for note in summary["facts"].get("notes", []):
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"report: {run.path / 'report.html'} (hash {run.hash})", soft_wrap=True)
