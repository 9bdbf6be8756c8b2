"""The tables of the study of retrieval, and of a pair of real models, from the folders that they leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftmech_hf.runs import FinishedRun, describe_versions
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
    source = (
        f"Means over seeds {seeds}; four documents; completeness and precision of questions for three "
        "facts, beside what BM25 finds."
    )
    return markdown_table(("model", *COLUMNS.values()), rows, source)


def verdicts_block(folder: Path) -> str:
    """What the diagnoses say of reading, by seed, and why of the first, as Markdown."""
    found = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    rows = [
        (f"`{row['model']}`", ", ".join(f"{verdict} ({seed})" for seed, verdict in row["verdicts"].items()),
         row["reason"])
        for row in found
    ]  # fmt: skip
    return markdown_table(("model", "verdict (seed)", "why, of the first seed"), rows)


CONTEXTS = {
    "none": "none",
    "retrieved": "found",
    "retrieved, all gold": "found, all that are needed among them",
    "retrieved, gold missing": "found, one that is needed missing",
    "oracle": "the needed ones",
    "other": "found for another question",
}


def pair_block(folder: Path) -> str:
    """What two models answer to the questions of a collection, as Markdown."""
    run = FinishedRun(folder)
    summary, config, env = run.summary, run.config, run.env
    rows = [_pair_row(called, summary[context]) for context, called in CONTEXTS.items() if context in summary]
    columns = ("documents", "questions", "right: base, %", "right: fine-tuned, %", "difference, points",
               "facts told: base, %", "facts told: fine-tuned, %", "difference, points")  # fmt: skip
    source = (
        f"{config['top_k']} documents, found by {config['retriever']}; differences on the same questions, with 95 % "
        "intervals over them, wider where those about one document are alike; "
        f"{env['cpu_seconds']:.0f} processor seconds for the answers; seed {config['seed']}; "
        f"config hash `{env['hash']}`; {describe_versions(env)}."
    )
    return markdown_table(columns, rows, source)


def _pair_row(called: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [called, str(found["questions"])]
    for name in ("right", "completeness"):
        change = {key: 100 * value for key, value in found["difference"][name].items()}
        cells += [f"{100 * found[model][name]:.1f}" for model in ("base", "finetuned")]
        cells.append(f"{change['value']:+.1f} ({change['low']:.1f} to {change['high']:.1f})")
    return tuple(cells)
