"""The table of a real model of the study of safety, from the folder that its recipe leaves."""

from __future__ import annotations

from pathlib import Path

from ftmech_hf.runs import FinishedRun, describe_versions
from recipes.readme.studies import claims_table


def texts_block(folder: Path) -> str:
    """What is claimed of a model given as a folder, as Markdown."""
    run = FinishedRun(folder)
    env, rows = run.env, run.config["rows"]
    return claims_table(
        folder,
        f"Seed {run.config['seed']} alone, {rows} test prompts of each kind (95 % interval over them); "
        f"{env['cpu_seconds']:.0f} processor seconds; "
        f"config hash `{env['hash']}`; {describe_versions(env)}.",
    )
