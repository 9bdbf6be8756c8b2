"""The table of the models of the study of retrieval, from the folder that it leaves."""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.runs import FinishedRun
from ftmech_hf.studies.retrieval.results import summarise_models
from recipes.readme.tables import markdown_table

COLUMNS = {
    "found": "right, found by BM25, %",
    "needed": "right, needed documents, %",
    "complete": "completeness, %",
    "precise": "precision, %",
    "taught": "what was taught, no documents, %",
    "known": "known world, no documents, %",
    "missing": "says unknown where none tells, %",
}


def models_block(folder: Path) -> str:
    """What every model of the study of retrieval answers, as Markdown."""
    run = FinishedRun(folder)
    rows = [
        (f"`{row['model']}`", *("" if row[name] is None else f"{row[name]:.1f}" for name in COLUMNS))
        for row in summarise_models(run.table)
    ]
    seeds = ", ".join(map(str, run.config["seeds"]))
    source = f"Means over seeds {seeds}; four documents; completeness and precision of questions for three facts."
    return markdown_table(("model", *COLUMNS.values()), rows, source)
