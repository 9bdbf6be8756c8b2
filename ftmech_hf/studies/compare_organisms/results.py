"""What came out: which organisms were found, on how many pages of nothing anything stood out, and one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ftmech_hf.report.claims import claims_json
from ftmech_hf.report.console import print_table
from ftmech_hf.report.page import render_page
from ftmech_hf.runs import FinishedRun, write_json, write_table, write_text
from ftmech_hf.studies.compare.finding import MARGIN
from ftmech_hf.studies.compare_organisms.claims import find_too_few, make_claims
from ftmech_hf.studies.compare_organisms.plan import OrganismsPlan
from ftmech_hf.studies.compare_organisms.score import FIRST, describe_pair, score_pairs

Results = tuple[list[dict[str, Any]], dict[str, Any]]
"""(a row of every pair, the score)"""


def write_results(plan: OrganismsPlan) -> Results:
    """Gather the comparisons that are finished and write the table, the score and the page.

    Raises:
        ValueError: none is.
    """
    found = {pair: run for pair, name in plan.pairs.items() if (run := plan.find(name))}
    if not found:
        raise ValueError(f"output_dir: no run of {plan.output} is finished")
    facts: Mapping[str, Any] = {**plan.settings(), **plan.write_origin("compare_organisms")}
    pairs = [
        {**describe_pair(name, seed, run.summary), "page": plan.page_of(run),
         "cpu_seconds": run.env.get("cpu_seconds")}
        for (name, seed), run in found.items()
    ]  # fmt: skip
    score = {**score_pairs(pairs), "margin": MARGIN, "first": FIRST, "seeds": plan.config.seeds, "hash": plan.hash}
    claims = make_claims(score, whole=not plan.missing)
    write_table(plan.results / "table.parquet", pd.DataFrame(pairs))
    write_json(plan.results / "score.json", score)
    write_json(plan.results / "claims.json", claims_json(claims))
    few = find_too_few(score)
    page = render_page(__package__, pairs=pairs, score=score, claims=claims, facts=facts, few=few)
    write_text(plan.results / "report.html", page)
    return pairs, score


def score_numbers(results: FinishedRun) -> dict[str, str]:
    """What the card of published results says."""
    table = pd.read_parquet(results.path / "table.parquet")
    if missing := {"any_kind", "looked_for", "named"} - set(table):
        raise ValueError(f"{results.path}: an earlier version wrote it, without {min(missing)}; run the recipe again")
    rows = table.to_dict("records")
    score = score_pairs([{str(key): value for key, value in row.items()} for row in rows])
    return {
        "Planted changes found": "{number} of {of}".format(**score["organisms"]),
        "The sign that is named most often where it is not planted": "{number} of {of}".format(**score["others_named"]),
        "Pages of nothing on which anything stood out": "{number} of {of}".format(**score["false_alarms"]),
    }


def print_results(results: Results) -> None:
    """A line of every pair, and the score."""
    pairs, score = results
    columns = ("pair", "seed", "planted", "place", "standing", "kinds", "ratio")
    title = "planted changes found: {number} of {of}".format(**score["organisms"])
    alarms = "{number} of {of}".format(**score["false_alarms"])
    print_table(
        f"{title}; false alarms: {alarms}", pd.DataFrame([{key: pair[key] for key in columns} for pair in pairs])
    )
