"""The tables of the study that plants changes for comparisons to find, from the folder that it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ftmech_hf.runs import FinishedRun, describe_versions
from ftmech_hf.studies.compare_organisms.claims import find_too_few
from recipes.readme.studies import claims_table
from recipes.readme.tables import markdown_table


def compare_organisms_block(folder: Path) -> str:
    """Claims, then every kind of change with how often and by how much it stands out, as Markdown."""
    score = json.loads((folder / "score.json").read_text(encoding="utf-8"))
    table, env = pd.read_parquet(folder / "table.parquet"), FinishedRun(folder).env
    seeds = ", ".join(map(str, score["seeds"]))
    source = (
        f"{len(table)} pairs of seeds {seeds}; 95 % intervals over pairs, as much wider as pairs of one kind, or of "
        f"one seed, are alike; a comparison takes {table['seconds'].median():.0f} seconds in the median, "
        f"{score['most_seconds']:.0f} at most; {env['seconds'] / 60:.0f} minutes of one core; "
        f"config hash `{score['hash']}`; {describe_versions(env)}."
    )
    alarms = (
        "Each null model beside the others of its comparison, of which there is one less: on {number} of {of} such "
        "pages anything stands out."
    ).format(**score["null_alarms"])
    named = "; ".join(f"`{sign}` on {each['number']} of {each['of']}" for sign, each in score["by_sign"].items())
    named = (
        f"By findings of any kind {score['any_kind']['number']} of {score['any_kind']['of']} would be found. Signs on "
        f"pages of the same base that do not have them: {named or 'none was looked for'}."
    )
    rows = [_row(str(name), pairs.to_dict("records")) for name, pairs in table.groupby("pair", sort=False)]
    columns = ("pair", "planted", "found", "as number", "stands out on", "most, times the null models")
    return "\n\n".join(
        [claims_table(folder, source, remarks=find_too_few(score)), markdown_table(columns, rows), named, alarms]
    )


def _row(name: str, pairs: list[dict[Any, Any]]) -> tuple[str, ...]:
    """A kind of change: over its seeds."""
    taught, number = pairs[0]["taught"], len(pairs)
    return (
        f"`{name}`", pairs[0]["planted"], f"{sum(pair['found'] for pair in pairs)} of {number}" if taught else "—",
        ", ".join(f"{pair['place']:.0f}" for pair in pairs if pair["found"]) or "—",
        f"{sum(pair['standing'] > 0 for pair in pairs)} of {number}",
        ", ".join("in none" if pair["ratio"] is None else f"{pair['ratio']:.3g}" for pair in pairs),
    )  # fmt: skip
