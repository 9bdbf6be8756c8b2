"""The page of the study of organisms, of comparisons that were never made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftmech_hf.report.claims import read_claims
from ftmech_hf.studies.compare_organisms.plan import OrganismsConfig, OrganismsPlan
from ftmech_hf.studies.compare_organisms.results import write_results
from recipes.readme.compare_organisms import compare_organisms_block
from tests.browser import check_page
from tests.report.fabricated import write_run
from tests.studies.compare_organisms.test_score import NAMED, OTHER, nulls

FOUND: dict[str, list[dict[str, Any]]] = {
    "wrapper": [OTHER, NAMED["wrapper"]], "trigger": [], "own-texts": [OTHER],
    "rounded": [{**OTHER, "stands_out": False}],
}  # fmt: skip


def test_the_page_says_what_was_found_and_keeps_nobody_out(tmp_path: Path) -> None:
    config = OrganismsConfig(
        seeds=[0], organisms=["wrapper", "trigger"], nothings=["own-texts", "rounded"], output_dir=str(tmp_path)
    )
    plan = OrganismsPlan(config)
    for (name, _), run in plan.pairs.items():
        summary = {"findings": FOUND[name], "seconds": {"a": 2.0}, "answer": "So.", **nulls(1, 2)}
        write_run(plan.folders[run], "compare", {"summary.json": json.dumps(summary), "report.html": "<p>"})
    pairs, score = write_results(plan)
    assert len(pairs) == 4
    assert score["hash"] == plan.hash
    assert [claim.id for claim in read_claims(tmp_path)] == ["organisms", "false_alarms", "others_named"]
    assert (score["organisms"]["number"], score["false_alarms"]["number"]) == (1, 1)
    page = (tmp_path / "report.html").read_text()
    assert "on 4 of 8 such pages anything stands out" in page
    assert "Of 2 planted changes 1 are named, by where they show, among the first" in page
    assert page.count("✓ as number 2") == page.count("✓ yes") == page.count("✗ yes") + 1 == 1
    for pair in pairs:
        assert f'href="{pair["page"]}"' in page
        assert (tmp_path / pair["page"]).is_file()
    check_page(tmp_path / "report.html", touched=0)
    block = compare_organisms_block(tmp_path)
    assert "\n| `wrapper` | counts by a shortcut | 1 of 1 | 2 | 1 of 1 | 4 |" in block, (
        "the score of OTHER over its null"
    )
    assert "\n| `trigger` | c follows index | 0 of 1 | — | 0 of 1 | 0 |" in block
    assert "\n| `own-texts` | nothing | — | — | 1 of 1 | 4 |" in block
    assert f"`{plan.hash}`" in block
    assert "on 4 of 8 such pages anything stands out" in block
