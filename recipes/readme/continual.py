"""The tables of the continual study, from the folders that it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.runs import FinishedRun, describe_versions
from ftmech_hf.studies.continual.results import IN_TABLE, methods_table, paper_table, strengths_table
from ftmech_hf.studies.continual.stories import results as stories
from ftmech_hf.studies.continual.texts import matrix_rows
from recipes.readme.studies import claims_block
from recipes.readme.tables import markdown_table

NONE = "not diagnosed"


def methods_block(folder: Path) -> str:
    """What every method learns and loses of the continual study, as Markdown."""
    settings = FinishedRun(folder).config
    found = methods_table(FinishedRun(folder).table, settings["sequences"][0])
    rows = [
        (f"`{row['method']}`", row["says"], *("" if row[name] is None else f"{row[name]:.1f}" for name in IN_TABLE))
        for row in found
    ]
    columns = (
        "method",
        "what it is",
        "accuracy on a task right after it, %",
        "loses of what is never tuned, points",
        "forgets of earlier tasks, points",
        "probes change by, points",
    )
    seeds = settings["seeds"]
    named = f"Means over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"Seed {seeds[0]} alone"
    return markdown_table(columns, rows, f"{named}.")


def texts_block(folder: Path) -> str:
    """What a real model answers after every task of the example on data sets, as Markdown."""
    columns, *rows = matrix_rows(pd.read_parquet(folder / "matrix.parquet"))
    found = FinishedRun(folder)
    seeds = ", ".join(map(str, found.config["seeds"]))
    source = f"Accuracy in %, seed {seeds}; config hash `{found.env['hash']}`; {describe_versions(found.env)}."
    return markdown_table(columns, rows, source)


def paper_block(folder: Path) -> str:
    """The paper's means beside those of the continual study, as Markdown."""
    settings = FinishedRun(folder).config
    names = ("paper_accuracy", "paper_change", "learned", "probe_change", "concept_loss")
    rows = [
        (f"`{row['method']}`", *("" if row[name] is None else f"{row[name]:.1f}" for name in names))
        for row in paper_table(FinishedRun(folder).table, settings["sequences"][0])
    ]
    columns = (
        "method",
        "paper: probes on the tuned task, %",
        "paper: probes on others change by, points",
        "ours: accuracy on a task right after it, %",
        "ours: probes change by, points",
        "ours: answers lose, points",
    )
    source = "Theirs are means over ten fine-tunings of CLIP, on one data set each, as another paper reports them."
    return markdown_table(columns, rows, source)


def sequences_block(folder: Path) -> str:
    """What methods lose on every sequence of the continual study, mean over seeds and each seed, as Markdown."""
    found = FinishedRun(folder).table
    of_more = {str(name): number for name, number in found.groupby("method")["sequence"].nunique().items()}
    rows = []
    for (sequence, method), each in found.groupby(["sequence", "method"], sort=True):
        if of_more[str(method)] > 1:
            losses = " ".join(f"{100 * value:.0f}" for value in each.sort_values("seed")["concept_loss"])
            of_means = ["learned", "untouched", "concept_loss", "forgetting", "plasticity_gap", "probe_change"]
            means = 100 * each[of_means].astype(float).mean()
            shown = ("" if pd.isna(value) else f"{value:.1f}" for value in means)
            rows.append((f"`{sequence}`", f"`{method}`", *shown, losses))
    columns = (
        "sequence",
        "method",
        "accuracy on a task right after it, %",
        "the same on texts as they come, %",
        "loses of what is never tuned, points",
        "forgets of earlier tasks, points",
        "learned better alone, points",
        "probes change by, points",
        "loss in each seed",
    )
    return markdown_table(columns, rows, "Means over the seeds whose sequence is whole.")


def diagnoses_block(folder: Path) -> str:
    """The verdicts on counting a after tasks of the continual study, as Markdown."""
    found = json.loads((folder / "diagnoses.json").read_text(encoding="utf-8"))
    if not found:
        return "No model was diagnosed."
    tasks = sorted({each["after_task"] for each in found})
    verdicts = {(each["method"], each["seed"], each["after_task"]): each["verdict"] for each in found}
    models = sorted({(each["method"], each["seed"]) for each in found}, key=lambda each: (each[0] != "plain", each))
    rows = [
        (f"`{method}`", str(seed), *(f"*{verdicts.get((method, seed, task), NONE)}*" for task in tasks))
        for method, seed in models
    ]
    return markdown_table(
        ("method", "seed", *(f"after task {task}" for task in tasks)), rows, f"{len(found)} models were diagnosed."
    )


def stories_block(folder: Path) -> str:
    """What every model writes after every task of the second sequence, as Markdown."""
    columns, *rows = stories.matrix_rows(pd.read_parquet(folder / "matrix.parquet"))
    found = FinishedRun(folder)
    seeds = found.config["seeds"]
    named = f"means over seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]} alone"
    source = (
        "Per cent of stories that have a feature when the instruction names it, and in brackets when it does not; "
        f"{named}; config hash `{found.env['hash']}`; {describe_versions(found.env)}."
    )
    return markdown_table(columns, [(f"`{name}`", *cells) for name, *cells in rows], source)


def stories_claims_block(folder: Path) -> str:
    """What is claimed of the second sequence, as Markdown: its floor is how often a feature is written unasked."""
    return claims_block(folder, floor="floor")


def strengths_block(folder: Path) -> str:
    """What was tried of the strengths of the continual study, and which were taken, as Markdown."""
    found = strengths_table(FinishedRun(folder).table)
    return _strengths(folder, found, "accuracy on a task right after it, %", "whose validation rows alone were asked")


def stories_strengths_block(folder: Path) -> str:
    """What was tried of the strengths of the second sequence, and which were taken, as Markdown."""
    settings = FinishedRun(folder).config
    tried = f"two tasks of {settings['task_steps']} steps from a base of {settings['base_steps']:,}"
    found = stories.strengths_table(FinishedRun(folder).table)
    return _strengths(folder, found, "stories without a feature right after its deletion, %", tried)


def _strengths(folder: Path, found: list[dict[str, Any]], what: str, asked: str) -> str:
    rows = [
        (
            f"`{row['setting']}`",
            "; ".join(f"{value:,g}: {learned:.1f}" for value, learned in row["tried"].items()),
            f"{row['chosen']:g}{', too strong' if row['too_strong'] else ''}",
        )
        for row in found
    ]
    columns = ("setting", f"{what} (fine-tuning: {found[0]['plain']:.1f})", "chosen")
    seeds = ", ".join(map(str, FinishedRun(folder).config["seeds"]))
    return markdown_table(columns, rows, f"Seed {seeds}, {asked}.")
